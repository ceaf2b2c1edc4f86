Name: DIY Cloud: sessions run in their user's slice
Default: yes
Priority: -64
Session-Type: Additional
Session:
	[success=ignore default=1]	pam_succeed_if.so quiet uid ge {{ uid_min }} uid le {{ uid_max }}
	required	pam_exec.so quiet stdout seteuid type=open_session {{ script }}
