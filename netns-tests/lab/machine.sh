# shellcheck shell=bash
# Hosts with systemd as their first process, over a copy-on-write view of this machine's files. Sourced by lib.sh.
#
# Such a host has everything of its own: network, processes, cgroups, root. What it does to its files is gone with it. Of
# what this machine has configured (fstab, units of its own, sdwand) nothing is seen there; no unit is enabled.

declare -A MACHINE=()  # host → yes, where systemd runs
LAB_CGROUP=$LAB/cgroup # this machine's cgroup2; the hosts' are folders in it

# can_boot: whether such a host can be made here; the reason on standard output where it can't.
can_boot() {
  [[ -x /lib/systemd/systemd ]] || { echo "no systemd"; return 1; }
  [[ -d $LAB_CGROUP ]] && return
  mkdir -p "$LAB_CGROUP"
  mount -t cgroup2 cgroup2 "$LAB_CGROUP" || { rmdir "$LAB_CGROUP"; echo "no cgroup2"; return 1; }
}
# mkmachine NAME…: a host of this kind, booted. From outside, its folders are $LAB/hosts/NAME/{etc,run,lib}, as with `mkhost`;
# /etc/sdwand and /var/lib/sdwand aren't there before something is installed.
mkmachine() {
  local name folder
  for name; do
    folder=$LAB/hosts/$name
    mkdir -p "$folder" "$LAB_CGROUP/sdwand-lab-$$-$name"
    unshare --mount --propagation private bash "$LAB_LIB/machine-init.sh" "$folder" "$LAB" "$LAB_CGROUP/sdwand-lab-$$-$name" \
      </dev/null >"$folder/boot.log" 2>&1 &
    until [[ -e $folder/booting ]]; do
      kill -0 $! 2>/dev/null || { cat "$folder/boot.log" >&2; return 1; }
      sleep 0.02
    done
    # The child of unshare: its number here, not there.
    HOST_PID[$name]=$(pgrep -P $!)
    MACHINE[$name]=yes
    ln -s "/proc/${HOST_PID[$name]}/root/run" "$folder/run"
    ln -s "/proc/${HOST_PID[$name]}/root/etc/sdwand" "$folder/etc"
    ln -s "/proc/${HOST_PID[$name]}/root/var/lib/sdwand" "$folder/lib"
    ip netns attach "$name" "${HOST_PID[$name]}"
    require wait_for "$name: systemd is up" 60 prints '@(running|degraded)' on "$name" systemctl is-system-running
    lab_quick_addresses "$name"
  done
}
# Empty folders would stay behind on this machine.
lab_end_machines() {
  local name folder
  for name in "${!MACHINE[@]}"; do
    kill -KILL "${HOST_PID[$name]}" 2>/dev/null || true
    until_ok 10 lab_rmcgroup "$LAB_CGROUP/sdwand-lab-$$-$name" || note "$LAB_CGROUP/sdwand-lab-$$-$name is left behind"
  done
}
lab_rmcgroup() { find "$1" -depth -type d -exec rmdir {} +; }
