package access_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

func faultsOf(r access.Role) []string {
	var out []string
	r.Check(
		func(path, format string, args ...any) { out = append(out, path+": "+fmt.Sprintf(format, args...)) },
	)
	return out
}

// The roles that the design shows are valid.
func TestCheckAcceptsTheExamplesOfTheDesign(t *testing.T) {
	t.Parallel()
	r := access.Role{
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"env": {"staging", "prod"}, "team": {"{{traits.team}}"}},
				Logins:  access.Strings{"{{traits.unix}}", "ubuntu", "svc-{{traits.unix}}"},
				Actions: access.Strings{"shell", "exec", "sftp", "forward-local"},
			},
			{Nodes: nodes("*", "*"), Actions: access.Strings{"list"}},
			{Resources: access.Strings{"*"}, Actions: access.Strings{"get", "apply", "rm"}},
		},
		Deny: []access.Grant{
			{Nodes: nodes("env", "prod"), Logins: access.Strings{"root"}},
			{Nodes: nodes("name", "vault-?"), Logins: access.Strings{"*"}},
		},
		Options: access.Options{CertTTL: access.Set(access.Duration(8 * time.Hour))},
	}
	if got := faultsOf(r); got != nil {
		t.Errorf("got %q, want no faults", got)
	}
}

// Each case is a role with one fault, and where and how it is reported.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	good := access.Grant{
		Nodes:   nodes("*", "*"),
		Logins:  access.Strings{"a1"},
		Actions: access.Strings{"shell"},
	}
	change := func(fn func(*access.Grant)) access.Grant {
		g := good
		fn(&g)
		return g
	}
	for _, tt := range []struct {
		name  string
		grant access.Grant
		want  string
	}{
		{"neither nodes nor resources", access.Grant{Actions: access.Strings{"shell"}},
			"needs either nodes or resources"},
		{"both", change(func(g *access.Grant) { g.Resources = access.Strings{"roles"} }), "needs either"},
		{"no actions", change(func(g *access.Grant) { g.Actions = nil }), "grants nothing"},
		{"an unknown action", change(func(g *access.Grant) { g.Actions = access.Strings{"shel"} }),
			"unknown action"},
		{"a document's action on nodes",
			change(func(g *access.Grant) { g.Actions = access.Strings{"apply"} }), "unknown action"},
		{"a node's action on documents",
			access.Grant{Resources: access.Strings{"roles"},
				Actions: access.Strings{"shell"}}, "unknown action"},
		{"an unknown resource",
			access.Grant{Resources: access.Strings{"role"},
				Actions: access.Strings{"get"}}, "unknown resource"},
		{"logins on documents",
			access.Grant{Resources: access.Strings{"roles"}, Actions: access.Strings{"get"},
				Logins: access.Strings{"a1"}}, "logins belong to nodes"},
		{"a star key with another value", change(func(g *access.Grant) { g.Nodes = nodes("*", "prod") }),
			"takes only the value"},
		{"a key that is not a plain name", change(func(g *access.Grant) { g.Nodes = nodes("a b", "x") }), "label"},
		{"a key without value", change(func(g *access.Grant) { g.Nodes = nodes("env") }), "matches nothing"},
		{"a broken template in nodes", change(func(g *access.Grant) { g.Nodes = nodes("env", "{{traits.x") }),
			"template"},
		{"two templates",
			change(func(g *access.Grant) { g.Nodes = nodes("env", "{{traits.x}}{{traits.y}}") }), "template"},
		{"a closing without an opening", change(func(g *access.Grant) { g.Nodes = nodes("env", "x}}") }),
			"}} without {{"},
		{"a template of something else",
			change(func(g *access.Grant) { g.Logins = access.Strings{"{{name}}"} }), "template"},
		{"a star as login", change(func(g *access.Grant) { g.Logins = access.Strings{"*"} }), "account name"},
		{"a wildcard in a login", change(func(g *access.Grant) { g.Logins = access.Strings{"adm*"} }),
			"account name"},
		{"a comma in a login", change(func(g *access.Grant) { g.Logins = access.Strings{"a,root"} }),
			"account name"},
		{"a wildcard around a template",
			change(func(g *access.Grant) { g.Logins = access.Strings{"*{{traits.x}}"} }),
			"cannot be an account name"},
		{"a dash before a template",
			change(func(g *access.Grant) { g.Logins = access.Strings{"-{{traits.x}}"} }),
			"cannot be an account name"},
	} {
		got := faultsOf(access.Role{Allow: []access.Grant{good, tt.grant}})
		if len(got) != 1 || !strings.HasPrefix(got[0], "allow[1]") || !strings.Contains(got[0], tt.want) {
			t.Errorf("%s: got %q, want one fault at allow[1] with %q", tt.name, got, tt.want)
		}
	}
}

func TestCheckRefusesDeniesThatMatchNothing(t *testing.T) {
	t.Parallel()
	for _, login := range []string{"adm*", "*{{traits.x}}", "a b"} {
		got := faultsOf(
			access.Role{Deny: []access.Grant{{Nodes: nodes("*", "*"), Logins: access.Strings{login}}}},
		)
		if len(got) != 1 || !strings.HasPrefix(got[0], "deny[0].logins") {
			t.Errorf("%q: got %q, want one fault at deny[0].logins", login, got)
		}
	}
}

func TestCheckBoundsTheCertificateLifetime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ttl time.Duration
		ok  bool
	}{{0, false}, {time.Minute, true}, {24 * time.Hour, true}, {time.Second, false}, {25 * time.Hour,
		false}, {-time.Hour, false}} {
		o := access.Options{CertTTL: access.Set(access.Duration(tt.ttl))}
		got := faultsOf(access.Role{Options: o})
		if (len(got) == 0) != tt.ok {
			t.Errorf("%s: got %q, want ok %v", tt.ttl, got, tt.ok)
		}
	}
}

// Each limit is accepted at both ends of its range, and refused beyond them.
func TestCheckBoundsTheLimits(t *testing.T) {
	t.Parallel()
	d := func(s string) access.Option[access.Duration] {
		v, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return access.Set(access.Duration(v))
	}
	for _, tt := range []struct {
		name string
		is   access.Options
		want string // the start of the one fault; empty: none
	}{
		{"an idle timeout", access.Options{IdleTimeout: d("600s")}, ""},
		{"the shortest and the longest",
			access.Options{IdleTimeout: d("1s"), MaxSession: d("168h"), MaxSessions: access.Set(1)}, ""},
		{"the longest and the shortest",
			access.Options{IdleTimeout: d("24h"), MaxSession: d("1s"), MaxSessions: access.Set(1000)}, ""},
		{"the end of the certificate", access.Options{EndWithCertificate: access.Set(true)}, ""},
		{"no end of the certificate", access.Options{EndWithCertificate: access.Set(false)}, ""},
		{"an idle timeout of zero", access.Options{IdleTimeout: d("0s")},
			"options.idle_timeout: 0s is not between 1s and 24h: leave it out for no limit"},
		{"no sessions", access.Options{MaxSessions: access.Set(0)},
			"options.max_sessions: 0 is not between 1 and 1000: leave it out for no limit"},
		{"an idle timeout of no time", access.Options{IdleTimeout: d("10ms")},
			"options.idle_timeout: 10ms is not between 1s and 24h"},
		{"an idle timeout below zero", access.Options{IdleTimeout: d("-10m")},
			"options.idle_timeout: -10m0s is not between"},
		{"an idle timeout of days", access.Options{IdleTimeout: d("25h")}, "options.idle_timeout"},
		{"sessions of no time", access.Options{MaxSession: d("999ms")}, "options.max_session: "},
		{"sessions of weeks", access.Options{MaxSession: d("169h")}, "options.max_session: "},
		{"sessions below zero", access.Options{MaxSessions: access.Set(-1)},
			"options.max_sessions: -1 is not between 1 and 1000"},
		{"too many sessions", access.Options{MaxSessions: access.Set(1001)}, "options.max_sessions"},
	} {
		got := faultsOf(access.Role{Options: tt.is})
		if tt.want == "" && got != nil ||
			tt.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tt.want)) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// An option that a role sets to false is not one that it leaves out, and stays so.
func TestOptionsRoundTripAsJSON(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`,
		`{"end_with_certificate":false}`,
		`{"idle_timeout":"10m","max_session":"8h","max_sessions":3,"end_with_certificate":true}`,
		`{"cert_ttl":"0s","max_sessions":0}`, // Check refuses it: it is not left out
	} {
		var o access.Options
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		if b, err := json.Marshal(o); err != nil || string(b) != text {
			t.Errorf("got %s (%v), want %s", b, err, text)
		}
	}
	for _, bad := range []string{`{"max_sessions":"3"}`, `{"max_sessions":1.5}`, `{"idle_timeout":600}`,
		`{"end_with_certificate":"yes"}`, `{"end_with_certificate":"later"}`} {
		if json.Unmarshal([]byte(bad), new(access.Options)) == nil {
			t.Errorf("%s: got no error, want one", bad)
		}
	}
	nothing := access.Options{MaxSessions: access.Set(5)}
	err := json.Unmarshal([]byte(`{"max_sessions":null}`), &nothing)
	if err != nil || nothing != (access.Options{}) {
		t.Errorf("got %+v (%v) for null, want nothing set", nothing, err)
	}
}

// What an option says is critical for readers of the signed rules, also if it says no.
func TestOptionsThatAreSetAreNamed(t *testing.T) {
	t.Parallel()
	o := access.Options{EndWithCertificate: access.Set(false), MaxSessions: access.Set(0)}
	want := []string{"end_with_certificate", "max_sessions"}
	if got := wire.FieldsIn(o); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := wire.Fields(access.Options{}); len(got) != reflect.TypeFor[access.Options]().NumField() {
		t.Errorf("got %q, want every option and nothing inside", got)
	}
}

// A field that is a list of texts may be written as a single text. Other types, and a lifetime that is no
// duration, are refused.
func TestARoleFieldAcceptsOneStringOrAList(t *testing.T) {
	t.Parallel()
	var r access.Role
	err := json.Unmarshal(
		[]byte(
			`{"allow":[{"nodes":{"env":"prod","team":["a","b"]},"logins":"root","actions":["shell"]}],"options":{"cert_ttl":"8h"}}`,
		),
		&r,
	)
	if err != nil {
		t.Fatal(err)
	}
	g := r.Allow[0]
	if !slices.Equal(g.Nodes["env"], access.Strings{"prod"}) ||
		!slices.Equal(g.Nodes["team"], access.Strings{"a", "b"}) ||
		!slices.Equal(g.Logins, access.Strings{"root"}) {
		t.Errorf("got %+v, want one and many", g)
	}
	if b, err := json.Marshal(r.Options); err != nil || string(b) != `{"cert_ttl":"8h"}` {
		t.Errorf("got %s (%v), want 8h", b, err)
	}
	for _, bad := range []string{`{"logins":[1]}`, `{"logins":{"a":1}}`, `{"logins":7}`} {
		if json.Unmarshal([]byte(bad), new(access.Grant)) == nil {
			t.Errorf("%s: got no error, want one", bad)
		}
	}
	if json.Unmarshal([]byte(`{"cert_ttl":"soon"}`), new(access.Options)) == nil {
		t.Error("a life of \"soon\": got no error, want one")
	}
}

func TestDurationText(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{0: "0s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m",
		8 * time.Hour: "8h", 10*time.Hour + 10*time.Minute: "10h10m", time.Hour + time.Second: "1h0m1s"} {
		b, err := access.Duration(d).MarshalText()
		var back access.Duration
		if err != nil || string(b) != want || back.UnmarshalText(b) != nil || time.Duration(back) != d {
			t.Errorf("%s: got %q, %s (%v), want %q and back", d, b, time.Duration(back), err, want)
		}
	}
}

// Each row says whether a pattern matches a text.
func TestGlobs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*", "abc", true}, {"*c",
			"abc", true}, {"a*c", "abbc", true},
		{"a*b*c", "a-b-b-c", true}, {"a*b*c", "a-c-b", false}, {"**", "x", true}, {"?", "", false}, {"?", "a",
			true}, {"??", "a", false}, {"a?c", "abc", true},
		{"[a]", "a", false}, {"[a]", "[a]", true}, {`\*`, "*", false}, {"a*?", "a", false}, {"*ab", "aab",
			true}, {"A", "a", false},
	} {
		if got := access.Glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("Glob(%q, %q): got %v, want %v", tt.pattern, tt.s, got, tt.want)
		}
	}
	if access.Glob(strings.Repeat("a*", 500)+"b", strings.Repeat("a", 5000)) { // must end within moments
		t.Error("got a match, want none")
	}
}

// No trait may widen a grant: whatever its value, a label or login matches only if it is that value.
func FuzzTraitsNeverWiden(f *testing.F) {
	for _, v := range []string{"web", "*", "?", "", "{{traits.x}}", "}}", "a*b", "root", "web\x00", "wéb"} {
		f.Add(v, "web")
	}
	f.Fuzz(func(t *testing.T, trait, value string) {
		who := withTraits(user("r"), identity.Traits{"x": {trait}})
		g := access.Grant{
			Nodes:   nodes("k", "{{traits.x}}"),
			Logins:  access.Strings{"{{traits.x}}"},
			Actions: access.Strings{"shell"},
		}
		p := policy(allow(g))
		n := node("n", identity.Labels{"k": value})
		if p.Decide(request(who, n, "", access.List)).Allow && trait != value {
			t.Errorf("trait %q matches label %q", trait, value)
		}
		for _, l := range access.Logins(p, who) {
			if string(l) != trait || identity.CheckLogin(l) != nil || strings.EqualFold(string(l), "root") {
				t.Errorf("trait %q yields login %q", trait, l)
			}
		}
	})
}

func TestNullIsAnEmptyList(t *testing.T) {
	t.Parallel()
	var g access.Grant
	if err := json.Unmarshal([]byte(`{"logins":null,"actions":"shell"}`), &g); err != nil ||
		len(g.Logins) != 0 ||
		len(g.Actions) != 1 {
		t.Errorf("got %+v (%v), want no login and one action", g, err)
	}
}

// A role as the first release stores it is read by every later one, also with fields that it does not know.
// Where such a field must be known, the document around the role says so (internal/rules).
func TestTheGoldenRoleIsRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "role.json")
	want := access.Role{
		Name: "ops",
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"env": {"staging", "prod"}, "team": {"{{traits.team}}"}},
				Logins:  access.Strings{"{{traits.unix}}", "ubuntu"},
				Actions: access.Strings{"shell", "exec", "sftp", "forward-local"},
			},
			{Resources: access.Strings{"roles"}, Actions: access.Strings{"get"}},
		},
		Deny: []access.Grant{{Nodes: nodes("env", "prod"), Logins: access.Strings{"root"}}},
		Options: access.Options{
			CertTTL:            access.Set(access.Duration(8 * time.Hour)),
			IdleTimeout:        access.Set(access.Duration(10 * time.Minute)),
			MaxSession:         access.Set(access.Duration(12 * time.Hour)),
			MaxSessions:        access.Set(5),
			EndWithCertificate: access.Set(false),
			RulesAge:           access.Set(access.Duration(5 * time.Minute)),
		},
	}
	if *update {
		b, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as it is":                string(b),
		"with a field":            strings.Replace(string(b), `"name"`, `"note": {"v": 2}, "name"`, 1),
		"with an option":          strings.Replace(string(b), `"cert_ttl"`, `"record": "strict", "cert_ttl"`, 1),
		"with a field of a grant": strings.Replace(string(b), `"nodes"`, `"services": {"kind": "db"}, "nodes"`, 1),
	} {
		var got access.Role
		if err := json.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
}
