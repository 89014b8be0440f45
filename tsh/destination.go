package tsh

import (
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// destination is a node and the login to use there. login is empty if the user did not name one.
type destination struct {
	login identity.Login
	node  string
}

// parseDestination reads [LOGIN@]NODE. loginFlag is the login if there is no LOGIN@.
func parseDestination(s, loginFlag string) (destination, error) {
	login, node := loginFlag, s
	i := strings.LastIndex(s, "@")
	if i >= 0 {
		login, node = s[:i], s[i+1:]
	}
	if login != "" || i >= 0 {
		if err := identity.CheckLogin(identity.Login(login)); err != nil {
			hint := "write LOGIN@NODE, for example ubuntu@web-1"
			return destination{}, fault.Wrap(err, fault.Invalid, "", err.Error(), hint)
		}
	}
	name, err := nodeName(node)
	return destination{identity.Login(login), name}, err
}

// chooseLogin returns the login to use: the named one, else the user's only login, else the name of the local
// user if it is one of their logins. The node decides whether a named login is allowed.
func (a *app) chooseLogin(prof *profile.Profile, named identity.Login) (identity.Login, error) {
	if named != "" {
		return named, nil
	}
	if len(prof.Logins) == 1 {
		return prof.Logins[0], nil
	}
	local := identity.Login(a.Getenv("USER"))
	for _, l := range prof.Logins {
		if l == local {
			return l, nil
		}
	}
	msg := "you have several logins, so name one of them: " + join(prof.Logins)
	hint := "write LOGIN@NODE, for example " + string(prof.Logins[0]) + "@NODE"
	return "", fault.New(fault.Invalid, "", msg, hint)
}
