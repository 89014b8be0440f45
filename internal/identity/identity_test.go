package identity_test

import (
	"encoding/json"
	"flag"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Each check accepts the good names and refuses the bad ones, among them look-alikes, control characters and
// names that a resolver would read as an address.
func TestChecksOfNames(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	for _, tc := range []struct {
		what  string
		check func(string) error
		good  []string
		bad   []string
	}{
		{"login", func(s string) error { return identity.CheckLogin(identity.Login(s)) },
			[]string{"alice", "Alice", "svc_web", "a.b-c", "_apt", "machine$", "0", strings.Repeat("a", 64)},
			[]string{"", "*", "-x", ".x", "a b", "a,b", "a\x00", "a\n", "a/b", "a:b", "a@b", "$", "a$b", "é",
				"r\u043eot", "root\u200b", strings.Repeat("a", 65)}},
		{"node name", identity.CheckMachineName,
			[]string{"web-1", "web-1.eu.example.com", "0a", label, "10-0-0-1"},
			[]string{"", "Web", "-a", "a-", "a..b", ".a", "a.", "a.-b", "a_b", "*", "*.example.com", "a b",
				"a\n", "127.0.0.1", "127.1", "1", "::1", "а", label + "a", strings.Repeat(label+".",
					4) + "a"}},
		{"host", identity.CheckHost,
			[]string{"web-1", "127.0.0.1", "::1", "2001:db8::1"},
			[]string{"", "*", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:127.0.0.1", "fe80::1%eth0",
				"2001:DB8::1", "127.1", "127.0.0.01", "10.0.0.0/8", "[::1]"}},
		{"cluster", identity.CheckCluster,
			[]string{"access.example.com", "demo", "xn--bcher-kva.example"},
			[]string{"", "Access.example.com", "a..b", "a.", "1.2.3.4", "a b", "a/b", "a@b", "a_b",
				label + "a.com"}},
		{"word", func(s string) error { return identity.CheckWord("role", s) },
			[]string{"ops", "Ops.eu-1_x", "7"}, []string{"", "-a", "a-", "a b", "a\n", "{{x}}", "*",
				strings.Repeat("a", 65)}},
		{"text", func(s string) error { return identity.CheckText("name", s) },
			[]string{"alice@example.com", "김철수", "José Núñez", "a b"},
			[]string{"", "a\n", "a\x1b[31m", "a\x00", "a\x7f", "a\u0085", "a\u009b31m", "a\u202eb",
				"a\u200bb", "a\u2028b", "a\ufeff", "\xff", "a\ufffd", strings.Repeat("a", 513)}},
		{"node id", func(s string) error { return identity.CheckMachineID(identity.MachineID(s)) },
			[]string{strings.Repeat("0a", 16)}, []string{"", strings.Repeat("0A", 16),
				strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("0", 32) + "\n"}},
	} {
		for _, s := range tc.good {
			if err := tc.check(s); err != nil {
				t.Errorf("%s %q: got %v, want it accepted", tc.what, s, err)
			}
		}
		for _, s := range tc.bad {
			if err := tc.check(s); err == nil {
				t.Errorf("%s %q: got it accepted, want a refusal", tc.what, s)
			}
		}
	}
}

// Each case is an identity with one field that its kind must not have, or a malformed one.
func TestEncodeRefusesWhatNoCertificateMayCarry(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		id   func(user, machine *identity.Identity) *identity.Identity
	}{
		{"a user with a machine's id",
			func(u, _ *identity.Identity) *identity.Identity { u.ID = node().ID; return u }},
		{"a user with labels",
			func(u, _ *identity.Identity) *identity.Identity {
				u.Labels = identity.Labels{"a": "b"}
				return u
			}},
		{"a user without connector",
			func(u, _ *identity.Identity) *identity.Identity { u.Connector = ""; return u }},
		{"a user without login id",
			func(u, _ *identity.Identity) *identity.Identity { u.LoginID = ""; return u }},
		{"a user with a trait of two words",
			func(u, _ *identity.Identity) *identity.Identity { u.Traits["a b"] = nil; return u }},
		{"a user with an empty trait value",
			func(u, _ *identity.Identity) *identity.Identity { u.Traits["a"] = []string{""}; return u }},
		{"a user with a factor that is not a plain name",
			func(u, _ *identity.Identity) *identity.Identity { u.Factor = "totp\n"; return u }},
		{"a user pinned to a host in a network's clothes", func(u, _ *identity.Identity) *identity.Identity {
			u.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
			return u
		}},
		{"a user pinned to nothing",
			func(u, _ *identity.Identity) *identity.Identity {
				u.SourceAddresses = []netip.Prefix{{}}
				return u
			}},
		{"a user too large", func(u, _ *identity.Identity) *identity.Identity {
			for i := range 20 {
				u.Traits["t"+string(rune('a'+i))] = []string{strings.Repeat("x", 300)}
			}
			return u
		}},
		{"a machine with roles",
			func(_, m *identity.Identity) *identity.Identity { m.Roles = []string{"ops"}; return m }},
		{"a machine with a subject",
			func(_, m *identity.Identity) *identity.Identity { m.Subject = "x"; return m }},
		{"a machine with a factor",
			func(_, m *identity.Identity) *identity.Identity { m.Factor = "totp"; return m }},
		{"a machine with a profile",
			func(_, m *identity.Identity) *identity.Identity { m.Profile = identity.UserProfile; return m }},
		{"a machine with a time of authentication",
			func(_, m *identity.Identity) *identity.Identity { m.AuthTime = noon; return m }},
		{"a machine in a malformed region",
			func(_, m *identity.Identity) *identity.Identity { m.Region = "eu west"; return m }},
		{"a machine without id", func(_, m *identity.Identity) *identity.Identity { m.ID = ""; return m }},
		{"a machine with a bad label",
			func(_, m *identity.Identity) *identity.Identity { m.Labels["env"] = "a\nb"; return m }},
		{"the zero identity", func(u, _ *identity.Identity) *identity.Identity { return &identity.Identity{} }},
	} {
		u, m := alice(), node()
		if b, err := tc.id(&u, &m).Encode(); err == nil {
			t.Errorf("%s: got %s, want a refusal", tc.name, b)
		}
	}
}

func TestEncodeKeepsEverything(t *testing.T) {
	t.Parallel()
	id := alice()
	id.SourceAddresses = []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("2001:db8::/32"),
	}
	id.Proxy, id.Region = "fedcba9876543210fedcba9876543210", "eu-west"
	id.Factor = "totp"
	id.AuthTime, id.FactorTime, id.IssuedAt = noon, noon.Add(time.Minute), noon.Add(2*time.Minute)
	machine := node()
	machine.IssuedAt, machine.Region = noon, "eu-west"
	for name, id := range map[string]identity.Identity{"user": id, "node": machine} {
		expiring := id
		expiring.Expires = noon // is not encoded: the certificate has it
		b, err := expiring.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var got identity.Identity
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, id) {
			t.Errorf("got %+v, %v, want %+v", got, err, id)
		}
		checkGolden(t, name, b, id)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// checkGolden fails unless the golden file of an identity reads as want, and is what this release writes.
func checkGolden(t *testing.T, name string, encoded []byte, want identity.Identity) {
	t.Helper()
	file := "testdata/" + name + ".json"
	if *update {
		if err := os.WriteFile(file, append(encoded, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got identity.Identity
	if err := json.Unmarshal(golden, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v, %v, want %+v", file, got, err, want)
	}
	if string(golden) != string(encoded)+"\n" {
		t.Errorf("%s: got written %s, want %s", file, encoded, golden)
	}
}

func TestStringsAndURIs(t *testing.T) {
	t.Parallel()
	u, n := alice(), node()
	u.Subject = "a/../b?c#d%e김"
	for _, tc := range []struct{ got, want string }{
		{u.KeyID(), "alice@example.com@access.example.com/login-1"},
		{u.URI(), "threshold://access.example.com/user/corp/a%2F..%2Fb%3Fc%23d%25e%EA%B9%80"},
		{n.URI(), "threshold://access.example.com/node/0123456789abcdef0123456789abcdef"},
		{u.String(), "alice@example.com"},
		{n.String(), "node web-1"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
	if parsed, err := url.Parse(u.URI()); err != nil || parsed.String() != u.URI() {
		t.Errorf("got %v, %v, want a URI that survives parsing", parsed, err)
	}
}

func TestIdentityCheckSourceAddress(t *testing.T) {
	t.Parallel()
	id := alice()
	if err := id.CheckSourceAddress(nil); err != nil {
		t.Errorf("no pin: got %v, want any address accepted", err)
	}
	id.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	if err := id.CheckSourceAddress(tcp("192.0.2.9:1")); err != nil {
		t.Error(err)
	}
	if err := id.CheckSourceAddress(tcp("192.0.3.9:1")); err == nil {
		t.Error("got another address accepted, want a refusal")
	}
}
