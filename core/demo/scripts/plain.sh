# An ordinary program's log: one plain line now and then.
trap 'exit 0' TERM
pause() { sleep "$1" & wait $!; } # a foreground sleep would hold the trap back

n=0
while :; do
    n=$((n + 1))
    echo "batch $n: copied $((n * 37 % 911)) records in $((n * 13 % 97)) ms"
    pause 1
done
