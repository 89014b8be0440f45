package access

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Policy has every role under its name.
type Policy map[string]Role

// Node is what grants can match of a node.
type Node struct {
	ID     identity.MachineID
	Name   string
	Labels identity.Labels
}

// Request asks whether Who may do Action at Node as Login, or on Resource.
//
// With the action List and no Login it asks whether Who may see the node in listings. With no Action it asks
// whether Who may connect to the node at all, which a proxy asks before it knows the login.
type Request struct {
	Who      identity.Identity
	Node     Node
	Login    identity.Login
	Action   Action
	Resource Resource // when set, the request is about documents, and Node and Login are empty
	Now      time.Time
	From     netip.Addr // the client's address; zero when it is not known. No grant of this version uses it
}

// Decision is the answer. Its zero value denies.
type Decision struct {
	Allow  bool
	Rule   string // the entry that decided, as "role ops, allow 1"; empty when none matched
	Reason string // one sentence, for the user and the audit log
	Remedy string // what the user can do; empty when allowed
}

// Decide answers the request. It depends on nothing but its arguments, and has no effect. Only users are
// allowed anything, a deny wins over every allow, and what no allow matches is denied.
func Decide(p Policy, r Request) Decision {
	if r.Who.Kind != identity.User {
		return denial("", fmt.Sprintf("%s is not a user", r.Who), "log in as a user: tsh login")
	}
	if !r.Who.Expires.IsZero() && !r.Now.Before(r.Who.Expires) {
		return denial("", "the certificate has expired", "run: tsh login")
	}
	if rule, ok := p.firstMatch(r, false); ok {
		return denial(
			rule,
			fmt.Sprintf("%s denies %s", rule, r),
			"ask an administrator whether the rule should deny this",
		)
	}
	if rule, ok := p.firstMatch(r, true); ok {
		return Decision{Allow: true, Rule: rule, Reason: rule + " allows " + r.String()}
	}
	return denial(
		"",
		fmt.Sprintf("no role of %s (%s) allows %s", r.Who, roleList(r.Who.Roles), r),
		"ask an administrator for a role that allows it",
	)
}

func denial(rule, reason, remedy string) Decision {
	return Decision{Rule: rule, Reason: reason, Remedy: remedy}
}

func roleList(roles []string) string {
	if len(roles) == 0 {
		return "none"
	}
	return "roles: " + joinNames(roles)
}

// String describes the request, as "shell as root on web-1".
func (r Request) String() string {
	switch {
	case r.Resource != "":
		return fmt.Sprintf("%s on %s", r.Action, r.Resource)
	case r.Action == "":
		return "reaching " + r.Node.Name
	case r.Login == "":
		return fmt.Sprintf("%s on %s", r.Action, r.Node.Name)
	}
	return fmt.Sprintf("%s as %s on %s", r.Action, r.Login, r.Node.Name)
}

// firstMatch returns the first entry that matches the request: of the allow lists, or with allow false of the
// deny lists.
func (p Policy) firstMatch(r Request, allow bool) (rule string, ok bool) {
	for _, name := range r.Who.Roles {
		role, known := p[name]
		if !known {
			continue
		}
		list, word := role.Deny, "deny"
		if allow {
			list, word = role.Allow, "allow"
		}
		for i, g := range list {
			if g.matches(r, allow) {
				return fmt.Sprintf("role %s, %s %d", name, word, i+1), true
			}
		}
	}
	return "", false
}

// matches reports whether the entry is about what the request asks. allow says in which kind of list it is:
// what an entry leaves out means nothing in allow and everything in deny.
func (g Grant) matches(r Request, allow bool) bool {
	if r.Resource != "" {
		return len(g.Resources) > 0 && g.matchesResource(r) && g.matchesAction(r, allow)
	}
	return len(g.Nodes) > 0 && g.matchesNode(r) && g.matchesLogin(r, allow) && g.matchesAction(r, allow)
}

func (g Grant) matchesResource(r Request) bool {
	return slices.Contains(g.Resources, "*") || slices.Contains(g.Resources, string(r.Resource))
}

// matchesNode reports whether all keys of Nodes match the node.
func (g Grant) matchesNode(r Request) bool {
	for key, patterns := range g.Nodes {
		value, has := r.Node.Labels[key]
		switch key {
		case "*":
			continue // Check made sure that its value is "*"
		case "name":
			value, has = r.Node.Name, true
		}
		if !has ||
			!slices.ContainsFunc(patterns, func(p string) bool { return matches(p, value, r.Who.Traits) }) {
			return false
		}
	}
	return true
}

// matchesLogin compares the login. For a request without a login, an allow matches if it gives the user any
// login (or, for List, always), and a deny only if it names no login.
func (g Grant) matchesLogin(r Request, allow bool) bool {
	if r.Login == "" {
		if allow {
			return r.Action == List ||
				slices.ContainsFunc(
					g.Logins,
					func(l string) bool { return len(g.expandLogin(l, r.Who.Traits, true)) > 0 },
				)
		}
		return g.deniesEveryLogin()
	}
	if !allow && g.deniesEveryLogin() {
		return true
	}
	return slices.ContainsFunc(
		g.Logins,
		func(l string) bool { return slices.Contains(g.expandLogin(l, r.Who.Traits, allow), r.Login) },
	)
}

// deniesEveryLogin reports whether a deny is about all logins.
func (g Grant) deniesEveryLogin() bool { return len(g.Logins) == 0 || slices.Contains(g.Logins, "*") }

// expandLogin returns the logins that an entry stands for. In an allow, a template never yields a system
// account; in either list it yields only plain account names.
func (g Grant) expandLogin(entry string, traits identity.Traits, allow bool) []identity.Login {
	t, err := parseTemplate(entry)
	if err != nil {
		return nil
	}
	var out []identity.Login
	for _, v := range t.expand(traits) {
		if identity.CheckLogin(identity.Login(v)) == nil && (!allow || t.literal() || !isSystemAccount(v)) {
			out = append(out, identity.Login(v))
		}
	}
	return out
}

// matchesAction compares the action. An allow of any action includes List; connecting to a node (no action)
// needs an action other than List. A deny of List, or of everything, hides the node: it denies all actions on
// it.
func (g Grant) matchesAction(r Request, allow bool) bool {
	if !allow {
		return len(g.Actions) == 0 || slices.Contains(g.Actions, string(r.Action)) ||
			(r.Resource == "" && slices.Contains(g.Actions, string(List)))
	}
	switch {
	case r.Resource != "":
		return slices.Contains(g.Actions, string(r.Action))
	case r.Action == List:
		return len(g.Actions) > 0
	case r.Action == "":
		return g.allowsReaching()
	}
	return slices.Contains(g.Actions, string(r.Action))
}

// allowsReaching reports whether an allow gives more than seeing the node.
func (g Grant) allowsReaching() bool {
	return len(g.Nodes) > 0 &&
		slices.ContainsFunc(g.Actions, func(a string) bool { return a != string(List) })
}

// Logins lists every login that any of the user's roles could allow, sorted: the principals of their
// certificate.
func (p Policy) Logins(who identity.Identity) []identity.Login {
	var out []identity.Login
	for _, name := range who.Roles {
		for _, g := range p[name].Allow {
			if !g.allowsReaching() {
				continue
			}
			for _, l := range g.Logins {
				out = append(out, g.expandLogin(l, who.Traits, true)...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// LoginsAt lists the logins that the user may use at the node for any action, sorted.
func (p Policy) LoginsAt(who identity.Identity, n Node, now time.Time) []identity.Login {
	var out []identity.Login
	for _, l := range p.Logins(who) {
		for _, a := range nodeActions {
			if a != List && Decide(p, Request{Who: who, Node: n, Login: l, Action: a, Now: now}).Allow {
				out = append(out, l)
				break
			}
		}
	}
	return out
}

// CertTTL is the lifetime of the user's certificates: the shortest that their roles set, or DefaultCertTTL
// when none sets one.
func (p Policy) CertTTL(who identity.Identity) time.Duration {
	ttl := time.Duration(0)
	for _, name := range who.Roles {
		if t := time.Duration(p[name].Options.CertTTL); t > 0 && (ttl == 0 || t < ttl) {
			ttl = t
		}
	}
	if ttl == 0 {
		return DefaultCertTTL
	}
	return min(ttl, MaxCertTTL)
}
