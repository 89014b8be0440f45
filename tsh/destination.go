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

// parseDestination reads [LOGIN@]NODE. Without LOGIN@ the login is loginFlag, which may be empty. It returns
// an Invalid fault for a login or a node name that is not valid.
func parseDestination(typed, loginFlag string) (destination, error) {
	login, node := loginFlag, typed
	at := strings.LastIndex(typed, "@")
	hasLogin := at >= 0
	if hasLogin {
		login, node = typed[:at], typed[at+1:]
	}
	if login != "" || hasLogin { // the login in "@web-1" is empty, which CheckLogin refuses
		if err := identity.CheckLogin(identity.Login(login)); err != nil {
			return destination{}, destinationLoginInvalid.Wrap(err, "", fault.Args{"why": err.Error()})
		}
	}
	name, err := nodeName(node)
	return destination{identity.Login(login), name}, err
}

// chooseLogin returns the login to use on a node: named, if it is not empty, else the user's only login, else
// the name of the user's account on this machine if it is one of their logins. Otherwise it returns an
// Invalid fault that lists the logins. Whether the user may use a named login is the node's decision.
func (a *app) chooseLogin(prof *profile.Profile, named identity.Login) (identity.Login, error) {
	if named != "" {
		return named, nil
	}
	if len(prof.Logins) == 1 {
		return prof.Logins[0], nil
	}
	local := identity.Login(a.Getenv("USER"))
	for _, login := range prof.Logins {
		if login == local {
			return login, nil
		}
	}
	return "", loginAmbiguous.New("", fault.Args{
		"logins":  join(prof.Logins),
		"example": string(prof.Logins[0]),
	})
}
