# Fails its health check now and then: the check looks whether /tmp/ready is there.
trap 'exit 0' TERM
pause() { sleep "$1" & wait $!; } # a foreground sleep would hold the trap back

while :; do
    touch /tmp/ready
    echo "ready to serve"
    pause 25
    rm -f /tmp/ready
    echo "overloaded: health checks fail for a while" >&2
    pause 20
done
