"""Names nobody may have, whether this host has such an account or not.

A name here would give its owner mail, files or rights that are meant for a part of the system, on this host or after a
move to another, or once the package that the name belongs to is installed. What the host itself knows is refused by
accounts.check_new_name.
"""

_TEXT = """
root admin administrator daemon bin sys sync games man lp mail news uucp proxy www-data http nginx apache backup list
irc gnats nobody nogroup _apt messagebus dbus sshd polkitd avahi chrony ntp postfix postdrop postmaster abuse hostmaster
webmaster security noc ftp halt shutdown operator adm wheel sudo sudoers staff users utmp shadow disk tape tty dialout
cdrom floppy audio video plugdev netdev bluetooth kmem crontab ssh fuse sgx input render kvm lxd lxc incus incus-admin
docker podman containerd libvirt libvirt-qemu qemu ssl-cert google-sudoers ec2-user azureuser netplan wireshark
postgres mysql redis mongodb rabbitmq elasticsearch rpc statd tss uuidd ldap nslcd sssd nfsnobody bind named dnsmasq
exim debian-exim dovecot git gitlab jenkins jupyter puppet ansible salt consul vault etcd zabbix nagios prometheus grafana
munge slurm clamav syslog tcpdump landscape pollinate whoopsie rtkit colord geoclue pulse usbmux saned gdm lightdm sddm
diycloud diycloud-hub diycloud-gate diycloud-codes system agent server portal api static me self all except none null default
"""
RESERVED = frozenset(_TEXT.split())
PREFIXES = ("systemd-", "gnome-", "lxc-", "docker-", "libvirt-")
"""What the accounts and groups of one part of the system begin with."""


def is_reserved(name: str) -> bool:
    """Tell whether nobody may have a name."""
    return name in RESERVED or name.startswith(PREFIXES)
