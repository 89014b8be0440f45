package profile

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	clockBehindLogin = fault.Code{
		Name:   "clock-behind-login",
		Kind:   fault.Expired,
		Text:   "the {why}",
		Remedy: "set this machine's clock, then try again",
	}

	homeMissing = fault.Code{
		Name:   "tsh-home-missing",
		Kind:   fault.Invalid,
		Text:   "there is no home folder: neither TSH_HOME nor HOME is set",
		Remedy: "set TSH_HOME to a folder of your own",
	}

	homeUnresolvable = fault.Code{
		Name:   "tsh-home-unresolvable",
		Kind:   fault.Invalid,
		Text:   "TSH_HOME cannot be resolved: {why}",
		Remedy: "set TSH_HOME to an absolute path",
	}

	loginExpired = fault.Code{
		Name:   "login-expired",
		Kind:   fault.Expired,
		Text:   "the login at {cluster} expired at {time}",
		Remedy: "{hint}",
	}

	loginMissing = fault.Code{
		Name:   "login-missing",
		Kind:   fault.NotFound,
		Text:   "not logged in",
		Remedy: "run: tsh login --proxy HOST",
	}

	loginMissingAt = fault.Code{
		Name:   "login-missing-at",
		Kind:   fault.NotFound,
		Text:   "not logged in at {place}",
		Remedy: "{hint}",
	}

	profileDamaged = fault.Code{
		Name:   "profile-damaged",
		Kind:   fault.Invalid,
		Text:   "the profile of {cluster} is damaged: {why}",
		Remedy: "{hint}",
	}

	profileOutdated = fault.Code{
		Name:   "profile-outdated",
		Kind:   fault.Invalid,
		Text:   "the logins in {folder} are of an earlier tsh, which kept them by proxy",
		Remedy: "{hint}",
	}

	profileUnreadable = fault.Code{
		Name:   "profile-unreadable",
		Kind:   fault.Internal,
		Text:   "{path} cannot be read: {why}",
		Remedy: "check the owner and mode of {path}",
	}

	profileUnwritable = fault.Code{
		Name:   "profile-unwritable",
		Kind:   fault.Internal,
		Text:   "{path} cannot be written: {why}",
		Remedy: "check the owner and mode of {folder}, or set TSH_HOME to another folder",
	}

	profileDiskFull = fault.Code{
		Name:   "profile-disk-full",
		Kind:   fault.Exhausted,
		Text:   "{path} cannot be written: the disk is full",
		Remedy: "free disk space, then try again",
	}

	proxyAddressInvalid = fault.Code{
		Name:   "proxy-address-invalid",
		Kind:   fault.Invalid,
		Text:   "\"{typed}\" is not a proxy address",
		Remedy: "write HOST or HOST:PORT, as access.example.com",
	}
)
