package authrpc_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// A challenge matches its own verifier and keys and nothing else, also not the same bytes divided otherwise.
func TestAChallengeCommitsToAllItsParts(t *testing.T) {
	t.Parallel()
	challenge := authrpc.Challenge("verifier", []byte("ssh"), []byte("x509"))
	if !authrpc.ChallengeMatches(challenge, "verifier", []byte("ssh"), []byte("x509")) {
		t.Error("got the challenge refused for its own parts")
	}
	for name, parts := range map[string][3]string{
		"another verifier":        {"verifies", "ssh", "x509"},
		"another SSH key":         {"verifier", "hss", "x509"},
		"another X.509 key":       {"verifier", "ssh", "x510"},
		"a byte moved to another": {"verifiers", "sh", "x509"},
		"the keys swapped":        {"verifier", "x509", "ssh"},
		"nothing":                 {},
	} {
		if authrpc.ChallengeMatches(challenge, parts[0], []byte(parts[1]), []byte(parts[2])) {
			t.Errorf("%s: got it accepted, want refused", name)
		}
	}
	if authrpc.ChallengeMatches("", "", nil, nil) {
		t.Error("got an empty challenge accepted")
	}
}

func testToken(kind identity.Kind) authrpc.Token {
	return authrpc.Token{
		Kind:   kind,
		Secret: [authrpc.TokenSecretBytes]byte{1, 2, 3, 0xff},
		Pin:    identity.Pin{4, 5, 6, 0xfe},
	}
}

// A token's text is parsed to the same token, also with space around it. Its hash depends on kind and secret
// and not on the pin.
func TestATokenRoundTrips(t *testing.T) {
	t.Parallel()
	for _, kind := range []identity.Kind{identity.Node, identity.Proxy} {
		want := testToken(kind)
		for _, text := range []string{want.String(), " " + want.String() + "\n"} {
			if got, err := authrpc.ParseToken(text); err != nil || got != want {
				t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
			}
		}
	}
	node, proxy := testToken(identity.Node), testToken(identity.Proxy)
	other := node
	other.Secret[0]++
	if node.Hash() == proxy.Hash() || node.Hash() == other.Hash() {
		t.Error("got one hash for different tokens")
	}
	moved := node
	moved.Pin[0]++
	if node.Hash() != moved.Hash() {
		t.Error("got the pin in the hash, want the kind and the secret alone")
	}
}

// Texts that are no token are refused, with errors that do not repeat the secret.
func TestParseTokenRefuses(t *testing.T) {
	t.Parallel()
	good := strings.Split(testToken(identity.Node).String(), ".")
	join := func(parts ...string) string { return strings.Join(parts, ".") }
	long := base64.RawURLEncoding.EncodeToString(make([]byte, authrpc.TokenSecretBytes+1))
	for name, text := range map[string]string{
		"nothing":                "",
		"three parts":            join(good[:3]...),
		"five parts":             join(append(good, "")...),
		"another prefix":         join("thjoin2", good[1], good[2], good[3]),
		"a kind that is none":    join(good[0], "tree", good[2], good[3]),
		"the kind user":          join(good[0], "user", good[2], good[3]),
		"a longer secret":        join(good[0], good[1], long, good[3]),
		"a shorter secret":       join(good[0], good[1], good[2][:8], good[3]),
		"a secret of other text": join(good[0], good[1], "!!", good[3]),
		"no pin":                 join(good[0], good[1], good[2], ""),
		"a shorter pin":          join(good[0], good[1], good[2], good[3][:20]),
		"padding in base64":      join(good[0], good[1], good[2]+"==", good[3]),
		"a space in the middle":  join(good[0], good[1], good[2]+" ", good[3]),
		"far too much":           join(good[0], good[1], good[2], good[3]+strings.Repeat("A", 300)),
	} {
		_, err := authrpc.ParseToken(text)
		if err == nil {
			t.Errorf("%s: got %q accepted, want refused", name, text)
		} else if strings.Contains(err.Error(), good[2]) {
			t.Errorf("%s: got %q, want no secret in the error", name, err)
		}
	}
}

// Tokens are pasted from one release into another, so their text never changes.
func TestTheGoldenTokenIsParsed(t *testing.T) {
	t.Parallel()
	const golden = "thjoin1.proxy.AQIDAAAAAAAAAAAAAAAAAA.BAUGAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	want := authrpc.Token{
		Kind:   identity.Proxy,
		Secret: [authrpc.TokenSecretBytes]byte{1, 2, 3},
		Pin:    identity.Pin{4, 5, 6},
	}
	if got, err := authrpc.ParseToken(golden); err != nil || got != want || got.String() != golden {
		t.Errorf("got %v (%v), want the token", got, err)
	}
	for name, text := range map[string]string{
		"a later form":    strings.Replace(golden, "thjoin1", "thjoin2", 1),
		"an unknown kind": strings.Replace(golden, "proxy", "gateway", 1),
	} {
		if _, err := authrpc.ParseToken(text); err == nil || !strings.Contains(err.Error(), "update it") {
			t.Errorf("%s: got %v, want it refused with the advice to update", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(testToken(identity.Node).String())
	f.Add("thjoin1.proxy..")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := authrpc.ParseToken(text)
		if err != nil {
			return
		}
		if again, err := authrpc.ParseToken(token.String()); err != nil || again != token {
			t.Errorf("got %v, %v back of %q, want the same token", again, err, text)
		}
	})
}
