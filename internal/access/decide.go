package access

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Policy is what decisions are made by. Decide is its only method.
type Policy struct {
	Roles    map[string]Role // by name
	Locks    Locks
	Settings Settings
}

// Node is what grants can match of a node.
type Node struct {
	ID     identity.MachineID
	Name   string
	Labels identity.Labels
}

// Target is what a user wants to reach. Its zero value is nothing, and nobody may reach it.
type Target struct {
	Kind    TargetKind
	Node    Node   // the node itself, or the node that offers the service
	Service string // the name of the service; only of ServiceTarget
}

// TargetKind says what a Target is. Append only.
type TargetKind string

const (
	NodeTarget    TargetKind = "node"    // the node itself, as its accounts are used by SSH
	ServiceTarget TargetKind = "service" // another service of a node. No grant of this version has one
)

// ToNode is the node itself as a target.
func ToNode(n Node) Target { return Target{Kind: NodeTarget, Node: n} }

// String names the target for messages.
func (t Target) String() string {
	if t.Kind == ServiceTarget {
		return t.Service + " on " + t.Node.Name
	}
	return t.Node.Name
}

// Request is a question that Decide answers. It is one of these:
//   - Target, Login and Action: may Who do the action on the target as that login?
//   - Target and the action List, without a login: may Who see the target in listings?
//   - Target alone: may Who connect to the target at all? A proxy asks this, because it knows neither login
//     nor action.
//   - Resource and Action: may Who do the action on documents of that kind?
type Request struct {
	Who      identity.Identity
	Serial   identity.Serial // of the certificate by which Who is known; zero when it is not known
	Target   Target
	Login    identity.Login
	Action   Action
	Resource Resource // when set, the request is about documents, and Target and Login are empty
	Now      time.Time
	// From is the client's address; zero when it is not known. No grant of this version uses it.
	From  netip.Addr
	Proxy identity.MachineID // by which Who is connected; empty when it is not known
	// RulesAge is how old the rules are by which this is decided; zero where they are made.
	RulesAge time.Duration
}

// Decision is the answer. Its zero value denies.
type Decision struct {
	Allow  bool
	Rule   string // the entry that decided, as "role ops, allow 1"; empty when none matched
	Reason string // one sentence, for the user and the audit log
	Remedy string // what the user can do; empty when allowed
}

// Decide answers the request by the locks in p and by the roles in p that r.Who has. It depends on nothing
// but its arguments, and has no effect. Only users are allowed anything. If a lock or a deny entry of any
// role matches, the answer is no, whatever the allow entries say. Otherwise it is yes if an allow entry
// matches, and no if none does.
func (p Policy) Decide(r Request) Decision {
	if r.Who.Kind != identity.User {
		return denial("", fmt.Sprintf("%s is not a user", r.Who), "log in as a user: tsh login")
	}
	if !r.Who.Expires.IsZero() && !r.Now.Before(r.Who.Expires) {
		return denial("", "the certificate has expired", "run: tsh login")
	}
	if lock, ok := p.Locks.Denying(r); ok {
		return lock.Denial(r.String())
	}
	if rule, ok := p.firstMatch(r, inDeny); ok {
		return denial(
			rule,
			fmt.Sprintf("%s denies %s", rule, r),
			"ask an administrator whether the rule should deny this",
		)
	}
	if rule, ok := p.firstMatch(r, inAllow); ok {
		return Decision{Allow: true, Rule: rule, Reason: rule + " allows " + r.String()}
	}
	for _, name := range r.Who.Roles {
		if d, ok := p.withoutRole(name, r); ok {
			return d
		}
	}
	return denial(
		"",
		fmt.Sprintf("no role of %s (%s) allows %s", r.Who, roleList(r.Who.Roles), r),
		"ask an administrator for a role that allows it",
	)
}

// tooOld reports whether the rules are older than the role accepts for what it allows.
func (r Role) tooOld(rulesAge time.Duration) (most Duration, tooOld bool) {
	most, isSet := r.Options.RulesAge.Get()
	return most, isSet && rulesAge > time.Duration(most)
}

// withoutRole returns the denial for a role of the user that allows what is asked for, and does not count: a
// lock takes it, or the rules are too old for it. ok is false if the role counts, or would not allow it
// anyway.
func (p Policy) withoutRole(name string, r Request) (d Decision, ok bool) {
	alone := r
	alone.Who.Roles, alone.RulesAge = []string{name}, 0
	whole := p
	whole.Locks = Locks{}
	if _, allows := whole.firstMatch(alone, inAllow); !allows {
		return Decision{}, false
	}
	if lock, taken := p.Locks.TakingRole(name, r); taken {
		return lock.Denial("what role " + name + " allows"), true
	}
	most, tooOld := p.Roles[name].tooOld(r.RulesAge)
	return denial(
		optionRule(name, "rules_age"),
		fmt.Sprintf("role %s allows nothing by rules that are older than %s, and these are %s old: this "+
			"machine has not heard from the cluster", name, most, Duration(r.RulesAge.Round(time.Second))),
		"try again when the machine is connected to the cluster",
	), tooOld
}

// The two lists of a role, as the argument inAllowList.
const (
	inAllow = true
	inDeny  = false
)

// denial is a decision that denies. rule is the entry that decided; "" when none matched.
func denial(rule, reason, remedy string) Decision {
	return Decision{Rule: rule, Reason: reason, Remedy: remedy}
}

// roleList lists the names of a user's roles for a message.
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
		return "reaching " + r.Target.String()
	case r.Login == "":
		return fmt.Sprintf("%s on %s", r.Action, r.Target)
	}
	return fmt.Sprintf("%s as %s on %s", r.Action, r.Login, r.Target)
}

// firstMatch looks for an entry that matches the request, in the allow lists or in the deny lists of the
// user's roles. It returns the first one in the form of Decision.Rule; ok is false if there is none. Roles of
// the user that are not in p are skipped, and so are the allow lists of roles that a lock takes, or for which
// the rules are too old.
func (p Policy) firstMatch(r Request, inAllowList bool) (rule string, ok bool) {
	for _, name := range r.Who.Roles {
		role, known := p.Roles[name]
		if !known {
			continue
		}
		if inAllowList {
			_, tooOld := role.tooOld(r.RulesAge)
			if _, taken := p.Locks.TakingRole(name, r); taken || tooOld {
				continue
			}
		}
		entries, listName := role.Deny, "deny"
		if inAllowList {
			entries, listName = role.Allow, "allow"
		}
		for i, entry := range entries {
			if entry.matches(r, inAllowList) {
				return fmt.Sprintf("role %s, %s %d", name, listName, i+1), true
			}
		}
	}
	return "", false
}

// matches reports whether the entry is about what the request asks for. inAllowList says whether it is in an
// allow list or in a deny list: a field that an entry leaves out matches nothing in allow, and everything in
// deny.
func (g Grant) matches(r Request, inAllowList bool) bool {
	if r.Resource != "" {
		return len(g.Resources) > 0 && g.matchesResource(r) && g.matchesAction(r, inAllowList)
	}
	return len(g.Nodes) > 0 && g.matchesTarget(r) && g.matchesLogin(r, inAllowList) &&
		g.matchesAction(r, inAllowList)
}

// matchesResource reports whether Resources has the kind of document that the request is about.
func (g Grant) matchesResource(r Request) bool {
	return slices.Contains(g.Resources, "*") || slices.Contains(g.Resources, string(r.Resource))
}

// matchesTarget reports whether the target is a node, and each key of Nodes matches it: the node must have a
// label of that name with a value that one of the patterns matches. The key "name" matches the node's name,
// and "*" every node.
func (g Grant) matchesTarget(r Request) bool {
	if r.Target.Kind != NodeTarget {
		return false
	}
	for key, patterns := range g.Nodes {
		value, hasLabel := r.Target.Node.Labels[key]
		switch key {
		case "*":
			continue // Check made sure that its value is "*"
		case "name":
			value, hasLabel = r.Target.Node.Name, true
		}
		matchesValue := func(pattern string) bool { return matches(pattern, value, r.Who.Traits) }
		if !hasLabel || !slices.ContainsFunc(patterns, matchesValue) {
			return false
		}
	}
	return true
}

// matchesLogin reports whether Logins matches the login of the request.
//
// A request to see or reach a node has no login. An allow matches a request to see it always, and a request
// to reach it if the entry gives the user any login. A deny matches either only if it is about all logins:
// one that denies root must not hide the node from other logins.
func (g Grant) matchesLogin(r Request, inAllowList bool) bool {
	if r.Login == "" {
		if !inAllowList {
			return g.deniesEveryLogin()
		}
		givesLogin := func(entry string) bool { return len(g.expandLogin(entry, r.Who.Traits, inAllow)) > 0 }
		return r.Action == List || slices.ContainsFunc(g.Logins, givesLogin)
	}
	if !inAllowList && g.deniesEveryLogin() {
		return true
	}
	return slices.ContainsFunc(g.Logins, func(entry string) bool {
		return slices.Contains(g.expandLogin(entry, r.Who.Traits, inAllowList), r.Login)
	})
}

// deniesEveryLogin reports whether a deny is about all logins.
func (g Grant) deniesEveryLogin() bool { return len(g.Logins) == 0 || slices.Contains(g.Logins, "*") }

// expandLogin returns the logins that one entry of Logins stands for, for a user with these traits. Values
// that are no plain account names are left out.
//
// In an allow list, a template never gives a system account such as root: traits come from a provider, where
// many people can choose a name. In a deny list it does, because a deny that covers more is safe.
func (g Grant) expandLogin(entry string, traits identity.Traits, inAllowList bool) []identity.Login {
	tmpl, err := parseTemplate(entry)
	if err != nil {
		return nil
	}
	var logins []identity.Login
	for _, name := range tmpl.expand(traits) {
		mayBeSystemAccount := !inAllowList || tmpl.literal()
		if isSystemAccount(name) && !mayBeSystemAccount {
			continue
		}
		if identity.CheckLogin(identity.Login(name)) == nil {
			logins = append(logins, identity.Login(name))
		}
	}
	return logins
}

// matchesAction reports whether Actions matches the action of the request.
//
// In an allow list, any action lets the user see the node (List), and any action other than List lets the
// user reach it (no action in the request). In a deny list, List hides the node and so denies every action on
// it, as does an entry without actions.
func (g Grant) matchesAction(r Request, inAllowList bool) bool {
	if !inAllowList {
		hidesNode := r.Resource == "" && slices.Contains(g.Actions, string(List))
		return len(g.Actions) == 0 || hidesNode || slices.Contains(g.Actions, string(r.Action))
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
