# Three homes behind NATs of the kernel's, and a demo on their internet. Prints what the tracker knows of the
# stream's viewers, a line a second, until its standard output is closed or its time is over.
#
# Runs as the first process of its own namespaces (user, network, mount, PID): all that it starts ends with it.
# Arguments: the program, a directory to work in, seconds.
set -eu
PATH=$PATH:/usr/sbin:/sbin
shoal=$1
cd "$2"
seconds=$3
internet=203.0.113
end=$(($(date +%s) + seconds))
is_time() { [ "$(date +%s)" -lt "$end" ]; }

# home NUMBER HOW: a router with this kind of masquerading, and a viewer's device behind it.
home() {
    unshare --net sleep "$seconds" & router=$!
    unshare --net sleep "$seconds" & device=$!
    own=$(readlink /proc/$$/ns/net)
    for pid in $router $device; do
        while [ "$(readlink /proc/$pid/ns/net)" = "$own" ]; do sleep 0.05; done
    done
    ip link add "home$1" type veth peer name wan netns "$router"
    ip link set "home$1" master internet up
    nsenter --net="/proc/$router/ns/net" sh -eu -s "$1" "$2" "$device" <<ROUTER
        ip link add inside type veth peer name port netns \$3
        ip address add $internet.1\$1/24 dev wan
        ip link set wan up
        ip address add 192.168.77.1/24 dev inside
        ip link set inside up
        echo 1 > /proc/sys/net/ipv4/ip_forward
        nft -f - <<RULES
            table ip home {
                chain out { type nat hook postrouting priority 100; oifname wan masquerade \$2; }
                chain in { type filter hook input priority 0; iifname wan ct state new drop; }
            }
RULES
ROUTER
    nsenter --net="/proc/$device/ns/net" sh -eu <<'DEVICE'
        ip link set lo up
        ip address add 192.168.77.2/24 dev port
        ip link set port up
        ip route add default via 192.168.77.1
DEVICE
    eval "device$1=$device"
}

ip link set lo up
ip link add internet type bridge
ip address add "$internet.1/24" dev internet
ip link set internet up
# Another port for each destination, and the same one for all.
home 1 random,fully-random
home 2 ""
home 3 ""

"$shoal" demo --listen "$internet.1:8080" --viewers 1 --headless --seconds "$seconds" > demo.log 2>&1 &
until grep -q tracker demo.log; do
    is_time || exit 1
    sleep 0.1
done
tracker=$(sed -n 's/^ *tracker *//p' demo.log)
stream=$(sed -n 's/^ *stream *//p' demo.log)
for n in 1 2 3; do
    eval "device=\$device$n"
    nsenter --net="/proc/$device/ns/net" "$shoal" peer --tracker "$tracker" --stream "$stream" \
        --headless --seconds "$seconds" > "peer$n.log" 2>&1 &
done

api="http${tracker#ws}api/streams"
while is_time; do
    sleep 1
    id=$(curl -s "$api" | sed -n 's/.*"stream":"\([0-9a-f]*\)".*/\1/p')
    [ -z "$id" ] || curl -s "$api/$id/mesh"
    echo
done
