# A log in colour, as build tools write it.
trap 'exit 0' TERM
pause() { sleep "$1" & wait $!; } # a foreground sleep would hold the trap back

n=0
while :; do
    n=$((n + 1))
    case $((n % 6)) in
        0) printf '\033[1;32m✔\033[0m step \033[1m%d\033[0m \033[2mfinished in %d ms\033[0m\n' "$n" $((n * 7 % 400)) ;;
        1) printf '\033[36m→\033[0m step \033[1m%d\033[0m \033[4mfetching\033[0m part \033[38;5;%dm%d\033[0m\n' "$n" $((n % 200 + 20)) "$n" ;;
        2) printf '\033[33m!\033[0m step \033[1m%d\033[0m \033[33mslow answer\033[0m, trying again\n' "$n" ;;
        3) printf '\033[1;31m✘\033[0m step \033[1m%d\033[0m \033[97;41m FAILED \033[0m exit status %d\n' "$n" $((n % 3 + 1)) ;;
        4) printf '\033[38;2;255;140;0mstep %d in 24-bit orange\033[0m and \033[7mreverse\033[0m\n' "$n" ;;
        5) printf '\033[35m%s\033[0m %d %%\n' '██████████░░░░░░' $((n % 101)) ;;
    esac
    pause 0.8
done
