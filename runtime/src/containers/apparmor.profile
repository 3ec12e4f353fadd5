# What a container may do unless its pod names another profile. The file system, the network and the capabilities
# are bounded elsewhere; here it is kept from mounting, from other processes, and from the kernel's switches.

profile longshore-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  unix,

  # Signals from the node, and among the processes of containers.
  signal (receive) peer=unconfined,
  signal (send, receive) peer=longshore-default,
  ptrace (trace, read, tracedby, readby) peer=longshore-default,

  deny mount,

  # The kernel's memory and its emergency keys.
  deny /proc/{kcore,kmem,mem,sysrq-trigger} rwklx,
  # Switches of the kernel; processes are below numbers, and shared memory limits are the pod's own.
  deny /proc/* w,
  deny /proc/{acpi,asound,bus,driver,dynamic_debug,fs,irq,mpt,mtrr,pressure,scsi,spl,sysvipc,tty}/** w,
  deny /proc/sys/{abi,crypto,debug,dev,fs,net,sunrpc,user,vm}/** w,
  deny /proc/sys/kernel/{?,??,[^s]*,s[^h]*,sh[^m]*} w,
  deny /proc/sys/kernel/*/** w,

  # All of sysfs but cgroups.
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wklx,
  deny /sys/fs/{aufs,bcache,bpf,btrfs,erofs,ext4,f2fs,fuse,nfs,pstore,resctrl,selinux,smackfs,xfs,zfs}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
