package oidc

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{
		"access_denied", "\x1b]52;c;x\a", "a\u202eb", strings.Repeat("한", 100), "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if len(got) > 200 || !utf8.ValidString(got) ||
			strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%q: got %q, want short text without control characters", s, got)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	for _, s := range []string{
		`{"keys":[]}`,
		`{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256"}]}`,
		`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`,
		`null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, _ := parseKeys(b)
		for _, k := range keys {
			if _, secret := k.Key.([]byte); secret || !k.IsPublic() {
				t.Errorf("%s: got a key of type %T, want public ones only", b, k.Key)
			}
		}
	})
}
