package oidc_test

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/internal/config"
)

const validSpec = `type: oidc
display: Corp
issuer: https://login.example.com/tenant
client_id: threshold
client_secret: s3cret
scopes: [openid, email, groups]
name_claim: preferred_username
roles:
  - {claim: groups, value: "eng-*", roles: [dev]}
  - {claim: realm_access.roles, value: boss, roles: admin}
traits:
  - {trait: unix, claim: uid, immutable: true}
`

func TestSpecRoundTrip(t *testing.T) {
	t.Parallel()
	var s oidc.Spec
	if err := config.Decode("c.yaml", []byte(validSpec), &s); err != nil {
		t.Fatal(err)
	}
	rec, err := s.Record()
	if err != nil || strings.Contains(string(rec.Spec), "s3cret") || rec.Secret != "s3cret" {
		t.Fatalf("got %s and %v, want the secret beside the spec", rec.Spec, err)
	}
	back, err := oidc.ReadRecord(rec)
	if err != nil || back.ClientSecret != "s3cret" || back.Roles[1].Roles[0] != "admin" ||
		!back.Traits[0].Immutable {
		t.Errorf("got %+v and %v, want what was written", back, err)
	}
}

// Each case alters one line of a valid connector. Plain http is refused over the network and allowed on
// loopback.
func TestInvalidSpecsAreRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, old, new, says string }{
		{"another type", "type: oidc", "type: saml", "unknown type"},
		{"plain http over the network", "https://login", "http://login", "https"},
		{"an issuer with a query", "/tenant", "/tenant?x=1", "is not an address"},
		{"an issuer with a password", "https://login", "https://u:p@login", "is not an address"},
		{"an issuer of another scheme", "https://login", "file://login", "https"},
		{"scopes without openid", "[openid, email, groups]", "[email]", "openid"},
		{"a scope with a space", "groups]", `"a b"]`, "not a valid scope"},
		{"a role that is no word", "roles: [dev]", `roles: ["a,b"]`, "role"},
		{"a rule without roles", "roles: [dev]", "roles: []", "no role"},
		{"a trait that is no word", "trait: unix", `trait: "a b"`, "trait"},
		{"a trait defined twice", "immutable: true}",
			"immutable: true}\n  - {trait: unix, claim: x, immutable: true}", "twice"},
		{"a trait that leaves immutable open", ", immutable: true", "", "immutable"},
		{"an unknown key", "display: Corp", "displai: Corp", "unknown key"},
		{"an invisible character", "client_id: threshold", `client_id: "thres\u200bhold"`, "invisible"},
	} {
		var s oidc.Spec
		err := config.Decode("c.yaml", []byte(strings.Replace(validSpec, tt.old, tt.new, 1)), &s)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want it refused with %q", tt.name, err, tt.says)
		}
	}
	var s oidc.Spec
	for _, host := range []string{"127.0.0.1:5556", "[::1]:5556", "localhost"} {
		plain := strings.Replace(validSpec, "https://login.example.com", "http://"+host, 1)
		if err := config.Decode("c.yaml", []byte(plain), &s); err != nil {
			t.Errorf("got %v for http on %s, want it allowed", err, host)
		}
	}
}
