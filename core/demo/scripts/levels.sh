# Lines of every level, errors with a trace below them, and the worse half on standard error.
trap 'exit 0' TERM
pause() { sleep "$1" & wait $!; } # a foreground sleep would hold the trap back

n=0
while :; do
    n=$((n + 1))
    case $((n % 10)) in
        1 | 3 | 6 | 8) echo "INFO  GET /api/items/$n 200 $((n % 30))ms" ;;
        2 | 7) echo "DEBUG cache hit ratio 0.$((n % 89 + 10)), $((n % 50)) entries" ;;
        4) echo "WARN  upstream answered after $((n % 900 + 100)) ms, limit is 500 ms" >&2 ;;
        5) echo "TRACE enter handler item=$n" ;;
        9)
            echo "ERROR could not save item $n: connection reset by peer" >&2
            printf '%s\n' "  at store.save (store.py:81)" "  at handler.put (handler.py:23)" >&2
            ;;
        0) echo "INFO  checkpoint written, $n requests so far" ;;
    esac
    [ $((n % 97)) != 0 ] || echo "FATAL worker $((n / 97)) gave up" >&2
    pause 0.7
done
