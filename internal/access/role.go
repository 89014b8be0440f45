// Package access answers: may this user do this?
//
// Decide is one pure function over role documents. Auth calls it to list and to issue, a proxy calls it early
// so that a refusal is friendly, and the node calls it last: its answer is final. A deny wins, nothing is
// allowed by default, and every answer names the entry that decided.
package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/identity"
)

// Resource is a kind of administrative document, in the plural, as in "tsh get roles". Append only.
type Resource string

const (
	Roles      Resource = "roles"
	Connectors Resource = "connectors"
	Users      Resource = "users"
	Tokens     Resource = "tokens"
	Nodes      Resource = "nodes"    // their records; a grant about nodes is about what is done on them
	Proxies    Resource = "proxies"  // their records
	Replicas   Resource = "replicas" // the replicas of the auth service; get only
	Events     Resource = "events"   // the audit log; get only

	// ClusterLocks are the locks of the cluster. Locks is the type of what Decide asks.
	ClusterLocks Resource = "locks"

	// Authorities are the keys that verifiers trust: one document, which only the cluster root can change.
	Authorities Resource = "authorities"
)

// Resources lists every resource kind.
var Resources = []Resource{
	Roles, Connectors, Users, Tokens, Nodes, Proxies, Replicas, Authorities, ClusterSettings, ClusterLocks,
	Events,
}

// Singular is the kind as its documents name it: role for roles.
func (r Resource) Singular() string {
	switch r {
	case Proxies:
		return "proxy"
	case ClusterSettings, Authorities:
		return string(r) // there is one document of the kind
	}
	return strings.TrimSuffix(string(r), "s")
}

// Role is one role document.
type Role struct {
	Name    string  `json:"name"             yaml:"-"`
	Allow   []Grant `json:"allow,omitempty"  yaml:"allow,omitempty"`
	Deny    []Grant `json:"deny,omitempty"   yaml:"deny,omitempty"`
	Options Options `json:"options,omitzero" yaml:"options,omitempty"`
}

// Grant is one entry of allow or deny. It is either about nodes or about resources.
//
// In allow, what is left out grants nothing: no logins means the node may only be listed. In deny, what is
// left out matches everything: no logins denies every login.
type Grant struct {
	// Nodes matches a node's labels: all keys must match, each with one of its values; "*" and "?" are
	// wildcards. The key "name" matches the node's name, and the key "*" with the value "*" matches every
	// node. {{traits.x}} stands for a value of the user's trait x, in which wildcards have no meaning.
	Nodes map[string]Strings `json:"nodes,omitempty"     yaml:"nodes,omitempty"`
	// Logins are accounts on nodes, literal or with {{traits.x}}. A template never yields a system account
	// such as root.
	Logins Strings `json:"logins,omitempty"    yaml:"logins,omitempty"`
	// Resources are kinds of documents, or "*" for all.
	Resources Strings `json:"resources,omitempty" yaml:"resources,omitempty"`
	Actions   Strings `json:"actions,omitempty"   yaml:"actions,omitempty"`
}

// UsesTrait reports whether what the role allows depends on a trait of the user.
func (r Role) UsesTrait(name string) bool {
	uses := func(text string) bool {
		t, err := parseTemplate(text)
		return err != nil || t.trait == name // one that cannot be read may use it
	}
	return slices.ContainsFunc(r.Allow, func(g Grant) bool {
		for _, patterns := range g.Nodes {
			if slices.ContainsFunc(patterns, uses) {
				return true
			}
		}
		return slices.ContainsFunc(g.Logins, uses)
	})
}

// Check reports what is wrong in a role, such as unknown actions, and entries that cannot have an effect. It
// calls report once for each fault, with the path of the field, as "allow[0].actions", and a message.
func (r Role) Check(report func(path, format string, args ...any)) {
	for i, g := range r.Allow {
		g.check(fmt.Sprintf("allow[%d]", i), inAllow, report)
	}
	for i, g := range r.Deny {
		g.check(fmt.Sprintf("deny[%d]", i), inDeny, report)
	}
	r.Options.check(report)
}

// check reports what is wrong in an entry. path is the entry's own, as "allow[0]". inAllowList says which
// list it is in: an allow needs actions, and a deny may have the login "*".
func (g Grant) check(path string, inAllowList bool, report func(path, format string, args ...any)) {
	if (len(g.Nodes) > 0) == (len(g.Resources) > 0) { // both or neither
		report(path, "needs either nodes or resources")
		return
	}
	known := ActionsOn(OnNodes)
	if len(g.Resources) > 0 {
		known = ActionsOn(OnResources)
		if len(g.Logins) > 0 {
			report(path+".logins", "logins belong to nodes, not to resources")
		}
	}
	if inAllowList && len(g.Actions) == 0 {
		report(path+".actions", "an allow grants nothing without actions (known: %s)", joinNames(known))
	}
	for _, a := range g.Actions {
		if !slices.Contains(known, Action(a)) {
			report(path+".actions", "unknown action %q (known: %s)", a, joinNames(known))
		}
	}
	for _, r := range g.Resources {
		if r != "*" && !slices.Contains(Resources, Resource(r)) {
			report(path+".resources", "unknown resource %q (known: %s)", r, joinNames(Resources))
		}
	}
	g.checkPatterns(path, inAllowList, report)
}

// checkPatterns is check for the entry's labels and logins, which may be templates.
func (g Grant) checkPatterns(
	path string,
	inAllowList bool,
	report func(path, format string, args ...any),
) {
	for key, values := range g.Nodes {
		if key == "*" && !slices.Equal(values, Strings{"*"}) {
			report(path+".nodes", `the key "*" takes only the value "*"`)
		} else if key != "*" {
			if err := identity.CheckWord("label", key); err != nil {
				report(path+".nodes", "%v", err)
			}
		}
		if len(values) == 0 {
			report(path+".nodes."+key, "has no value, so it matches nothing")
		}
		for _, v := range values {
			if _, err := parseTemplate(v); err != nil {
				report(path+".nodes."+key, "%v", err)
			}
		}
	}
	for _, login := range g.Logins {
		tmpl, err := parseTemplate(login)
		switch {
		case err != nil:
			report(path+".logins", "%v", err)
		case !tmpl.literal():
			// The text around the trait must be possible in an account name. Otherwise the entry would never
			// match, and a deny would deny nothing.
			if identity.CheckLogin(identity.Login(tmpl.before+"x"+tmpl.after)) != nil {
				report(path+".logins", "%q cannot be an account name, whatever the trait's value", login)
			}
		case inAllowList || login != "*":
			if err := identity.CheckLogin(identity.Login(login)); err != nil {
				report(path+".logins", "%v", err)
			}
		}
	}
}

func joinNames[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return strings.Join(out, ", ")
}
