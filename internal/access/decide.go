package access

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Policy is every role by its name.
type Policy map[string]Role

// Node is what rules can see of a machine.
type Node struct {
	ID     identity.MachineID
	Name   string
	Labels identity.Labels
}

// Request is one question: may Who do Action at Node as Login, or on the resource?
//
// With Action List and no Login it asks whether Who may know of the node. With no Action it asks whether Who
// may reach the node at all: what a proxy asks before it knows the login.
type Request struct {
	Who      identity.Identity
	Node     Node
	Login    identity.Login
	Action   Action
	Resource Resource // set: the question is about documents, and Node and Login are empty
	Now      time.Time
	From     netip.Addr // the client's address; the zero Addr where it is not known. No rule of this version looks at it
}

// Decision is the answer. Its zero value denies.
type Decision struct {
	Allow  bool
	Rule   string // "role ops, allow 1"; empty when nothing matched
	Reason string // one sentence for the person and the audit log
	Remedy string // what would help; empty when allowed
}

// Decide answers the request. It has no effect and no input but its arguments.
func Decide(p Policy, r Request) Decision {
	if r.Who.Kind != identity.User {
		return refuse("", fmt.Sprintf("%s is not a person", r.Who), "log in as a user: tsh login")
	}
	if !r.Who.Expires.IsZero() && !r.Now.Before(r.Who.Expires) {
		return refuse("", "the certificate has ended", "run: tsh login")
	}
	if rule, ok := p.find(r, false); ok {
		return refuse(
			rule,
			fmt.Sprintf("%s denies %s", rule, r),
			"ask an administrator whether the rule should deny this",
		)
	}
	if rule, ok := p.find(r, true); ok {
		return Decision{Allow: true, Rule: rule, Reason: rule + " allows " + r.String()}
	}
	return refuse(
		"",
		fmt.Sprintf("no role of %s (%s) allows %s", r.Who, roleList(r.Who.Roles), r),
		"ask an administrator for a role that allows it",
	)
}

func refuse(rule, reason, remedy string) Decision {
	return Decision{Rule: rule, Reason: reason, Remedy: remedy}
}

func roleList(roles []string) string {
	if len(roles) == 0 {
		return "none"
	}
	return "roles: " + join(roles)
}

// String says the question in words: "shell as root on web-1".
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

func (p Policy) find(r Request, allow bool) (rule string, ok bool) {
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

func (g Grant) matches(r Request, allow bool) bool {
	if r.Resource != "" {
		return len(g.Resources) > 0 && g.matchesResource(r) && g.matchesAction(r, allow)
	}
	return len(g.Nodes) > 0 && g.matchesNode(r) && g.matchesLogin(r, allow) && g.matchesAction(r, allow)
}

func (g Grant) matchesResource(r Request) bool {
	return slices.Contains(g.Resources, "*") || slices.Contains(g.Resources, string(r.Resource))
}

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

// matchesLogin: a question without a login is answered by an allow that gives the person one (or, to list, by
// any), but only by a deny that names no login.
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

// expandLogin expands one entry. In allow a template never yields a system account or anything but a plain
// account name; in deny it may.
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

// matchesAction: any allowed action implies list; reaching a node (no action) takes an action other than
// list. A deny of list, or of everything, hides the node.
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

// allowsReaching reports whether an allow gives more than the sight of a node.
func (g Grant) allowsReaching() bool {
	return len(g.Nodes) > 0 &&
		slices.ContainsFunc(g.Actions, func(a string) bool { return a != string(List) })
}

// Logins lists every account that any of the person's roles could let them be, sorted: the principals of
// their certificate.
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

// LoginsAt lists the accounts the person may be at the node by any action, sorted.
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

// CertTTL is how long the person's certificates may live: the shortest of what their roles say,
// DefaultCertTTL when none says.
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
