"""Names nobody may have, whether this host has such an account or not.

A name here would give its owner mail, files or rights that are meant for a part of the system, on this host or after a
move to another. What the host itself knows is refused by the agent.
"""

_TEXT = """
root admin administrator daemon bin sys sync games man lp mail news uucp proxy www-data http nginx apache backup list
irc gnats nobody nogroup _apt systemd-network systemd-resolve systemd-timesync systemd-journal messagebus dbus sshd
polkitd avahi chrony ntp postfix postmaster abuse hostmaster webmaster security noc ftp halt shutdown operator adm
wheel sudo staff users shadow disk kvm lxd docker libvirt postgres mysql redis rpc statd tss uuidd ldap nfsnobody
diycloud diycloud-hub diycloud-gate system agent server portal api static me self all none null default
"""
RESERVED = frozenset(_TEXT.split())
