# A worker that dies after a while; its restart policy brings it back.
trap 'exit 0' TERM
pause() { sleep "$1" & wait $!; } # a foreground sleep would hold the trap back

echo "worker started, pid $$"
n=0
while [ "$n" -lt 20 ]; do
    n=$((n + 1))
    echo "job $n of 20 done"
    pause 1.5
done
echo "fatal: lost the connection to the queue" >&2
exit 3
