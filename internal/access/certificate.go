package access

import (
	"slices"

	"github.com/threshold-access/threshold/internal/identity"
)

// Logins lists every login that a role of the user allows on some node, sorted and without duplicates. These
// are the principals of the user's certificate. Locks and deny entries are not considered: whether a login
// may be used on a node is decided there.
func Logins(p Policy, who identity.Identity) []identity.Login {
	var out []identity.Login
	for _, name := range who.Roles {
		for _, g := range p.Roles[name].Allow {
			if !g.allowsReaching() {
				continue
			}
			for _, l := range g.Logins {
				out = append(out, g.expandLogin(l, who.Traits, inAllow)...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// LoginsAt lists the logins as which the user may do at least one action on the target, sorted. The request
// says all but the login and the action.
func LoginsAt(p Policy, r Request) []identity.Login {
	var out []identity.Login
	for _, login := range Logins(p, r.Who) {
		for _, action := range LoginActions() {
			r.Login, r.Action = login, action
			if p.Decide(r).Allow {
				out = append(out, login)
				break
			}
		}
	}
	return out
}

// Extensions lists the extensions of the user's SSH certificate, sorted. An extension is given if any grant
// of the user's roles allows one of its actions on any node. The certificate is valid on every node, so the
// extensions are only an upper bound: each node decides by the same roles what is allowed there.
func Extensions(p Policy, who identity.Identity) []string {
	var out []string
	for _, info := range actions {
		if info.Extension != "" && p.allowsAnywhere(info.Action, who) {
			out = append(out, info.Extension)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// allowsAnywhere reports whether a role of the user allows the action on some node.
func (p Policy) allowsAnywhere(action Action, who identity.Identity) bool {
	for _, role := range who.Roles {
		for _, g := range p.Roles[role].Allow {
			if len(g.Nodes) > 0 && slices.Contains(g.Actions, string(action)) {
				return true
			}
		}
	}
	return false
}
