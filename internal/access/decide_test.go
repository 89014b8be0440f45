package access_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func user(roles ...string) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   "c.example",
		Name:      "alice",
		Connector: "corp",
		Subject:   "1",
		Roles:     roles,
		Expires:   now.Add(time.Hour),
	}
}

func withTraits(id identity.Identity, traits identity.Traits) identity.Identity {
	id.Traits = traits
	return id
}

func node(name string, labels identity.Labels) access.Node {
	return access.Node{Name: name, Labels: labels}
}

func nodes(key string, values ...string) map[string]access.Strings {
	return map[string]access.Strings{key: values}
}

func policy(r access.Role) access.Policy {
	return access.Policy{Roles: map[string]access.Role{"r": r}}
}

func allow(g ...access.Grant) access.Role { return access.Role{Name: "r", Allow: g} }

var prod = node("web-1", identity.Labels{"env": "prod", "team": "web"})

// shellAs grants a shell as the logins on every node.
func shellAs(logins ...string) access.Grant {
	return access.Grant{Nodes: nodes("*", "*"), Logins: logins, Actions: access.Strings{"shell"}}
}

func request(who identity.Identity, n access.Node, login identity.Login, a access.Action) access.Request {
	return access.Request{Who: who, Target: access.ToNode(n), Login: login, Action: a, Now: now}
}

func TestNothingIsAllowedByDefault(t *testing.T) {
	t.Parallel()
	if d := (access.Decision{}); d.Allow {
		t.Error("the zero decision allows")
	}
	for _, p := range []access.Policy{{}, policy(access.Role{}), policy(allow(access.Grant{})),
		policy(allow(access.Grant{Actions: access.Strings{"shell"}, Logins: access.Strings{"alice"}}))} {
		d := p.Decide(request(user("r"), prod, "alice", access.Shell))
		if d.Allow || d.Reason == "" || d.Remedy == "" {
			t.Errorf("%v: got %+v, want a refusal with reason and remedy", p, d)
		}
	}
}

// Machines and users whose certificate has expired are denied, whatever the roles say.
func TestOnlyUsersWithAValidCertificateAreAllowed(t *testing.T) {
	t.Parallel()
	p := policy(allow(shellAs("alice")))
	for _, tt := range []struct {
		name   string
		change func(*access.Request)
		want   bool
	}{
		{"a user", func(*access.Request) {}, true},
		{"a user until the last moment", func(r *access.Request) { r.Now = r.Who.Expires.Add(-1) }, true},
		{"a user whose certificate has expired", func(r *access.Request) { r.Now = r.Who.Expires }, false},
		{"a node", func(r *access.Request) { r.Who.Kind = identity.Node }, false},
		{"a proxy", func(r *access.Request) { r.Who.Kind = identity.Proxy }, false},
		{"the zero identity", func(r *access.Request) { r.Who = identity.Identity{} }, false},
		{"a user with a role that does not exist", func(r *access.Request) { r.Who.Roles = []string{"gone"} },
			false},
		{"a user with a role of other case", func(r *access.Request) { r.Who.Roles = []string{"R"} }, false},
	} {
		r := request(user("r"), prod, "alice", access.Shell)
		tt.change(&r)
		if got := p.Decide(r); got.Allow != tt.want {
			t.Errorf("%s: got %+v, want allow %v", tt.name, got, tt.want)
		}
	}
}

// Each row says whether the labels of a grant match a node, with wildcards, the node's name and the user's
// traits.
func TestNodesMatchByLabels(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		nodes  map[string]access.Strings
		traits identity.Traits
		node   access.Node
		want   bool
	}{
		{"every node", nodes("*", "*"), nil, node("x", nil), true},
		{"a label's value", nodes("env", "prod"), nil, prod, true},
		{"another value", nodes("env", "staging"), nil, prod, false},
		{"one of several values", nodes("env", "staging", "prod"), nil, prod, true},
		{"all of several keys", map[string]access.Strings{"env": {"prod"}, "team": {"web"}}, nil, prod, true},
		{"not all of several keys", map[string]access.Strings{"env": {"prod"}, "team": {"db"}}, nil, prod,
			false},
		{"a key the node lacks", nodes("zone", "*"), nil, prod, false},
		{"a key beside the star", map[string]access.Strings{"*": {"*"}, "env": {"staging"}}, nil, prod,
			false},
		{"no value at all", nodes("env"), nil, prod, false},
		{"a star in a value", nodes("env", "pr*"), nil, prod, true},
		{"a question mark in a value", nodes("env", "pro?"), nil, prod, true},
		{"a question mark is one byte", nodes("env", "prod?"), nil, prod, false},
		{"letters of other case", nodes("env", "PROD"), nil, prod, false},
		{"the name", nodes("name", "web-*"), nil, prod, true},
		{"the name, not a label called name", nodes("name", "db"), nil,
			node("web-1", identity.Labels{"name": "db"}), false},
		{"a trait's value", nodes("team", "{{traits.team}}"), identity.Traits{"team": {"web"}}, prod, true},
		{"one of a trait's values", nodes("team", "{{traits.team}}"), identity.Traits{"team": {"db", "web"}},
			prod, true},
		{"blanks in a template", nodes("team", "{{ traits.team }}"), identity.Traits{"team": {"web"}}, prod,
			true},
		{"text around a trait", nodes("name", "{{traits.team}}-*"), identity.Traits{"team": {"web"}}, prod,
			true},
		{"a trait the user lacks", nodes("team", "{{traits.team}}"), nil, prod, false},
		{"a trait that is a star", nodes("team", "{{traits.team}}"), identity.Traits{"team": {"*"}}, prod,
			false},
		{"a trait that is question marks", nodes("team", "{{traits.team}}"), identity.Traits{"team": {"???"}},
			prod, false},
		{"an empty trait", nodes("team", "{{traits.team}}"), identity.Traits{"team": {""}}, prod, false},
		{"an empty trait between wildcards", nodes("team", "*{{traits.team}}*"),
			identity.Traits{"team": {""}}, prod, false},
		{"a trait that is a template", nodes("team", "{{traits.a}}"),
			identity.Traits{"a": {"{{traits.b}}"}, "b": {"web"}}, prod, false},
		{"a broken template", nodes("team", "{{traits.team"), identity.Traits{"team": {"web"}}, prod, false},
		{"a template of something else", nodes("team", "{{name}}"), identity.Traits{"name": {"web"}}, prod,
			false},
	} {
		g := access.Grant{Nodes: tt.nodes, Logins: access.Strings{"alice"}, Actions: access.Strings{"shell"}}
		d := policy(allow(g)).Decide(
			request(withTraits(user("r"), tt.traits), tt.node, "alice", access.Shell),
		)
		if d.Allow != tt.want {
			t.Errorf("%s: got %+v, want allow %v", tt.name, d, tt.want)
		}
	}
}

// Each row says whether a grant with these logins lets the user log in as asked, and so whether that login is
// in the user's certificate. A trait never gives root or another system account.
func TestLogins(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		logins []string
		traits identity.Traits
		asked  identity.Login
		want   bool
	}{
		{"a login written out", []string{"ubuntu"}, nil, "ubuntu", true},
		{"another login", []string{"ubuntu"}, nil, "root", false},
		{"a prefix of a login", []string{"ubuntu"}, nil, "ubunt", false},
		{"no login in the grant", nil, nil, "ubuntu", false},
		{"root written out", []string{"root"}, nil, "root", true},
		{"a trait", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"alice"}}, "alice", true},
		{"a trait the user lacks", []string{"{{traits.unix}}"}, nil, "alice", false},
		{"a trait that is root", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"root"}}, "root",
			false},
		{"a trait that is Root", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"Root"}}, "Root",
			false},
		{"a trait that makes root", []string{"r{{traits.unix}}"}, identity.Traits{"unix": {"oot"}}, "root",
			false},
		{"a trait that is a service's account", []string{"{{traits.unix}}"},
			identity.Traits{"unix": {"systemd-network"}}, "systemd-network", false},
		{"a trait that is a hidden account", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"_apt"}},
			"_apt", false},
		{"a trait that is a user id", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"0"}}, "0",
			false},
		{"a trait that is a star", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"*"}}, "alice",
			false},
		{"a trait that is a star, asked as star", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"*"}},
			"*", false},
		{"a trait with a comma", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"alice,root"}}, "root",
			false},
		{"a trait with a space", []string{"{{traits.unix}}"}, identity.Traits{"unix": {"alice root"}},
			"alice root", false},
		{"a star written out", []string{"*"}, nil, "alice", false},
		{"a star written out, asked as star", []string{"*"}, nil, "*", false},
	} {
		d := policy(allow(shellAs(tt.logins...))).Decide(
			request(withTraits(user("r"), tt.traits), prod, tt.asked, access.Shell),
		)
		if d.Allow != tt.want {
			t.Errorf("%s: got %+v, want allow %v", tt.name, d, tt.want)
		}
		principals := access.Logins(policy(allow(shellAs(tt.logins...))), withTraits(user("r"), tt.traits))
		if got := slices.Contains(principals, tt.asked); got != tt.want {
			t.Errorf("%s: got %v among the certificate's principals, want %v", tt.name, got, tt.want)
		}
	}
}

// Each row says whether a grant with these actions and logins allows what is asked, with a login or without
// one.
func TestActions(t *testing.T) {
	t.Parallel()
	reach := access.Action("")
	for _, tt := range []struct {
		name    string
		actions []string
		logins  []string
		login   identity.Login
		asked   access.Action
		want    bool
	}{
		{"what is granted", []string{"shell"}, []string{"a1"}, "a1", access.Shell, true},
		{"what is not", []string{"shell"}, []string{"a1"}, "a1", access.Exec, false},
		{"sftp is not exec", []string{"exec"}, []string{"a1"}, "a1", access.SFTP, false},
		{"forwarding is its own grant", []string{"shell", "exec", "sftp"}, []string{"a1"}, "a1",
			access.ForwardLocal, false},
		{"an unknown action", []string{"shell"}, []string{"a1"}, "a1", "dance", false},
		{"no actions", nil, []string{"a1"}, "a1", access.Shell, false},
		{"listing by any action", []string{"sftp"}, []string{"a1"}, "", access.List, true},
		{"listing without a login", []string{"list"}, nil, "", access.List, true},
		{"listing without actions", nil, []string{"a1"}, "", access.List, false},
		{"reaching by an action", []string{"shell"}, []string{"a1"}, "", reach, true},
		{"reaching by list alone", []string{"list"}, []string{"a1"}, "", reach, false},
		{"reaching without a login", []string{"shell"}, nil, "", reach, false},
		{"reaching by a login that the user lacks", []string{"shell"}, []string{"{{traits.unix}}"}, "", reach,
			false},
		{"a shell by list alone", []string{"list"}, []string{"a1"}, "a1", access.Shell, false},
	} {
		g := access.Grant{Nodes: nodes("*", "*"), Logins: tt.logins, Actions: tt.actions}
		if d := policy(allow(g)).Decide(
			request(user("r"), prod, tt.login, tt.asked)); d.Allow != tt.want {
			t.Errorf("%s: got %+v, want allow %v", tt.name, d, tt.want)
		}
	}
}

// Each row has a deny entry, beside an entry that allows everything, and says whether the request is still
// allowed.
func TestDenyWins(t *testing.T) {
	t.Parallel()
	everything := access.Grant{
		Nodes:   nodes("*", "*"),
		Logins:  access.Strings{"alice", "root"},
		Actions: access.Strings{"list", "shell", "exec"},
	}
	reach := access.Action("")
	for _, tt := range []struct {
		name  string
		deny  access.Grant
		login identity.Login
		asked access.Action
		want  bool
	}{
		{"a denied login", access.Grant{Nodes: nodes("env", "prod"), Logins: access.Strings{"root"}}, "root",
			access.Shell, false},
		{"another login", access.Grant{Nodes: nodes("env", "prod"), Logins: access.Strings{"root"}}, "alice",
			access.Shell, true},
		{"every login by star", access.Grant{Nodes: nodes("env", "prod"), Logins: access.Strings{"*"}},
			"alice", access.Shell, false},
		{"every login by none", access.Grant{Nodes: nodes("env", "prod")}, "alice", access.Shell, false},
		{"another node", access.Grant{Nodes: nodes("env", "staging")}, "alice", access.Shell, true},
		{"a denied action", access.Grant{Nodes: nodes("*", "*"), Actions: access.Strings{"exec"}}, "alice",
			access.Exec, false},
		{"another action", access.Grant{Nodes: nodes("*", "*"), Actions: access.Strings{"exec"}}, "alice",
			access.Shell, true},
		{"one login does not hide the node",
			access.Grant{Nodes: nodes("*", "*"), Logins: access.Strings{"root"}}, "", access.List, true},
		{"one login does not prevent connecting",
			access.Grant{Nodes: nodes("*", "*"), Logins: access.Strings{"root"}}, "", reach, true},
		{"one action does not prevent connecting",
			access.Grant{Nodes: nodes("*", "*"), Actions: access.Strings{"exec"}}, "", reach, true},
		{"all of it hides the node", access.Grant{Nodes: nodes("*", "*")}, "", access.List, false},
		{"all of it prevents connecting", access.Grant{Nodes: nodes("*", "*")}, "", reach, false},
		{"what may not be seen may not be reached",
			access.Grant{Nodes: nodes("*", "*"), Actions: access.Strings{"list"}}, "", reach, false},
		{"what may not be seen may not be used",
			access.Grant{Nodes: nodes("*", "*"),
				Actions: access.Strings{"list"}}, "alice", access.Shell, false},
		{"a login by template",
			access.Grant{Nodes: nodes("*", "*"),
				Logins: access.Strings{"{{traits.unix}}"}}, "alice", access.Shell, false},
		{"root by template", access.Grant{Nodes: nodes("*", "*"), Logins: access.Strings{"{{traits.su}}"}},
			"root", access.Shell, false},
		{"a node by template", access.Grant{Nodes: nodes("team", "{{traits.team}}")}, "alice", access.Shell,
			false},
		{"a grant about documents", access.Grant{Resources: access.Strings{"*"}}, "alice", access.Shell,
			true},
	} {
		who := withTraits(
			user("opener", "closer"),
			identity.Traits{"unix": {"alice"}, "su": {"root"}, "team": {"web"}},
		)
		p := access.Policy{Roles: map[string]access.Role{
			"opener": {Name: "opener", Allow: []access.Grant{everything}},
			"closer": {Name: "closer", Deny: []access.Grant{tt.deny}},
		}}
		for range 2 {
			d := p.Decide(request(who, prod, tt.login, tt.asked))
			if d.Allow != tt.want {
				t.Errorf("%s: got %+v, want allow %v", tt.name, d, tt.want)
			}
			if !d.Allow && d.Rule != "role closer, deny 1" {
				t.Errorf("%s: got rule %q, want the deny named", tt.name, d.Rule)
			}
			slices.Reverse(who.Roles) // the order of roles changes nothing
		}
	}
}

// A decision that allows names the entry that matched. One for which no entry matched says what is missing
// and has a remedy.
func TestDecisionsNameTheirRule(t *testing.T) {
	t.Parallel()
	p := policy(
		allow(
			access.Grant{
				Nodes:   nodes("env", "dev"),
				Logins:  access.Strings{"alice"},
				Actions: access.Strings{"shell"},
			},
			shellAs("alice"),
		),
	)
	d := p.Decide(request(user("r"), prod, "alice", access.Shell))
	if !d.Allow || d.Rule != "role r, allow 2" ||
		d.Reason != "role r, allow 2 allows shell as alice on web-1" ||
		d.Remedy != "" {
		t.Errorf("got %+v, want the second allow named", d)
	}
	d = p.Decide(request(user("r"), prod, "root", access.Shell))
	if d.Allow || d.Rule != "" || !strings.Contains(d.Reason, "shell as root on web-1") ||
		!strings.Contains(d.Reason, "roles: r") ||
		d.Remedy == "" {
		t.Errorf("got %+v, want what is missing named", d)
	}
}

// Grants on resources allow the actions that they list, on the kinds that they list, and nothing on nodes.
func TestResources(t *testing.T) {
	t.Parallel()
	grant := func(resource, action string) access.Grant {
		return access.Grant{Resources: access.Strings{resource}, Actions: access.Strings{action}}
	}
	for _, tt := range []struct {
		name  string
		role  access.Role
		kind  access.Resource
		asked access.Action
		want  bool
	}{
		{"what is granted", allow(grant("roles", "get")), access.Roles, access.Get, true},
		{"another action", allow(grant("roles", "get")), access.Roles, access.Apply, false},
		{"another resource", allow(grant("roles", "get")), access.Tokens, access.Get, false},
		{"every resource", allow(grant("*", "apply")), access.Connectors, access.Apply, true},
		{"every resource, another action", allow(grant("*", "apply")), access.Connectors, access.Remove,
			false},
		{"no action", allow(access.Grant{Resources: access.Strings{"*"}}), access.Roles, access.Get, false},
		{"no action asked", allow(grant("roles", "get")), access.Roles, "", false},
		{"a grant about nodes", allow(access.Grant{Nodes: nodes("*", "*"), Actions: access.Strings{"get"}}),
			access.Nodes, access.Get, false},
		{"a deny", access.Role{Allow: []access.Grant{grant("*", "get")},
			Deny: []access.Grant{grant("users", "get")}}, access.Users, access.Get, false},
		{"a deny of all actions",
			access.Role{Allow: []access.Grant{grant("*", "get")},
				Deny: []access.Grant{{Resources: access.Strings{"users"}}}}, access.Users, access.Get, false},
		{"a deny of another action",
			access.Role{Allow: []access.Grant{grant("*", "get")},
				Deny: []access.Grant{grant("users", "rm")}}, access.Users, access.Get, true},
		{"a deny of another resource",
			access.Role{Allow: []access.Grant{grant("*", "get")},
				Deny: []access.Grant{grant("users", "get")}}, access.Roles, access.Get, true},
	} {
		d := policy(tt.role).Decide(
			access.Request{Who: user("r"), Resource: tt.kind, Action: tt.asked, Now: now},
		)
		if d.Allow != tt.want {
			t.Errorf("%s: got %+v, want allow %v", tt.name, d, tt.want)
		}
	}
	if d := policy(allow(grant("nodes", "get"))).Decide(
		request(user("r"), prod, "alice", access.Shell)); d.Allow {
		t.Errorf("got %+v, want no shell by a grant about documents", d)
	}
}

// Logins collects what the roles allow on any node, without duplicates.
func TestLoginsAreThePrincipalsOfACertificate(t *testing.T) {
	t.Parallel()
	p := access.Policy{Roles: map[string]access.Role{
		"a": {
			Allow: []access.Grant{
				shellAs("ubuntu", "alice"),
				{Nodes: nodes("*", "*"), Logins: access.Strings{"viewer"}, Actions: access.Strings{"list"}},
			},
		},
		"b": {
			Allow: []access.Grant{shellAs("alice", "{{traits.unix}}")},
			Deny:  []access.Grant{{Nodes: nodes("env", "prod"), Logins: access.Strings{"ubuntu"}}},
		},
		"c": {Allow: []access.Grant{shellAs("root")}},
	}}
	who := withTraits(user("a", "b", "unknown"), identity.Traits{"unix": {"al", "root"}})
	got, want := access.Logins(p, who), []identity.Login{"al", "alice", "ubuntu"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	onProd := access.Request{Who: who, Target: access.ToNode(prod), Now: now}
	got, want = access.LoginsAt(p, onProd), []identity.Login{"al", "alice"}
	if !slices.Equal(got, want) {
		t.Errorf("on prod: got %v, want %v", got, want)
	}
	onDev := access.Request{Who: who, Target: access.ToNode(node("dev", nil)), Now: now}
	elsewhere := access.LoginsAt(p, onDev)
	if want := []identity.Login{"al", "alice", "ubuntu"}; !slices.Equal(elsewhere, want) {
		t.Errorf("elsewhere: got %v, want %v", elsewhere, want)
	}
	onProd.Now = who.Expires
	if got := access.LoginsAt(p, onProd); got != nil {
		t.Errorf("after the certificate's end: got %v, want none", got)
	}
	if got := access.Logins(p, user()); got != nil {
		t.Errorf("without roles: got %v, want none", got)
	}
}

// Of the lifetimes that a user's roles set, the shortest counts, up to MaxCertTTL.
func TestTheShortestCertificateLifetimeWins(t *testing.T) {
	t.Parallel()
	ttl := func(d time.Duration) access.Role {
		return access.Role{Options: access.Options{CertTTL: access.Set(access.Duration(d))}}
	}
	p := access.Policy{Roles: map[string]access.Role{
		"none":  {},
		"hour":  ttl(time.Hour),
		"day":   ttl(24 * time.Hour),
		"week":  ttl(7 * 24 * time.Hour),
		"minus": ttl(-time.Hour),
	}}
	for _, tt := range []struct {
		roles []string
		want  time.Duration
	}{
		{nil, access.DefaultCertTTL}, {[]string{"none"}, access.DefaultCertTTL}, {[]string{"unknown"},
			access.DefaultCertTTL},
		{[]string{"hour"}, time.Hour}, {[]string{"day"}, 24 * time.Hour}, {[]string{"day", "hour", "none"},
			time.Hour},
		{[]string{"week"}, access.MaxCertTTL}, {[]string{"minus"}, time.Minute},
	} {
		if got := access.CertTTL(p, user(tt.roles...)); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.roles, got, tt.want)
		}
	}
}

// A role that sets rules_age allows nothing by older rules; what other roles allow goes on, and what any role
// denies stays denied.
func TestARoleAllowsNothingByRulesThatAreTooOld(t *testing.T) {
	t.Parallel()
	strict := allow(shellAs("alice"))
	strict.Options.RulesAge = access.Set(access.Duration(5 * time.Minute))
	strict.Deny = []access.Grant{shellAs("root")}
	p := policy(strict)
	r := request(user("r", "other"), prod, "alice", access.Shell)
	r.RulesAge = 5 * time.Minute
	if d := p.Decide(r); !d.Allow {
		t.Errorf("got %+v, want it allowed by rules of that age", d)
	}
	r.RulesAge = 7*time.Minute + 200*time.Millisecond
	d := p.Decide(r)
	const reason = "role r allows nothing by rules that are older than 5m, and these are 7m old: " +
		"this machine has not heard from the cluster"
	if d.Allow || d.Rule != "role r, rules_age" || d.Reason != reason || d.Remedy == "" {
		t.Errorf("got %+v, want it denied: %s", d, reason)
	}
	r.Login = "bob"
	if d := p.Decide(r); d.Allow || d.Rule != "" {
		t.Errorf("got %+v, want the answer for what no role allows at any age", d)
	}
	r.Login = "alice"
	p.Roles["other"] = access.Role{Name: "other", Allow: []access.Grant{shellAs("alice", "root")}}
	if d := p.Decide(r); !d.Allow || d.Rule != "role other, allow 1" {
		t.Errorf("got %+v, want it allowed by the other role", d)
	}
	r.Login = "root"
	if d := p.Decide(r); d.Allow {
		t.Errorf("got %+v, want what the role denies to stay denied", d)
	}
}
