Name: DIY Cloud: users' state, networks and second factor
Default: yes
Priority: 900
Auth-Type: Additional
Auth:
	[success=ignore default=5]	pam_succeed_if.so quiet uid ge {{ uid_min }} uid le {{ uid_max }}
	[success=ignore default=2]	pam_listfile.so quiet onerr=succeed item=user sense=allow file={{ files }}/uncoded
	optional	pam_echo.so file={{ message }}
	requisite	pam_deny.so
	[success=ignore default=1]	pam_listfile.so quiet onerr=succeed item=user sense=allow file={{ files }}/coded
	required	pam_google_authenticator.so user=root secret={{ files }}/codes/${USER}
Account-Type: Primary
Account:
	[success=ignore default=4]	pam_succeed_if.so quiet uid ge {{ uid_min }} uid le {{ uid_max }}
	[success=2 default=ignore]	pam_succeed_if.so quiet service in {{ services }}
	[success=1 default=ignore]	pam_succeed_if.so quiet ruser = root service in su:su-l
	requisite	pam_access.so nodefgroup accessfile={{ files }}/access
	[success=end new_authtok_reqd=done default=ignore]	pam_unix.so no_pass_expiry
