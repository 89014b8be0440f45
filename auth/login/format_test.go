package login

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var update = flag.Bool("update", false, "write the golden files")

// structures are all that this package seals or stores, by the names of their golden files, and what they are
// read into.
func structures() map[string][2]versioned {
	at := time.Date(2026, 12, 1, 10, 20, 30, 0, time.UTC)
	handle := &headlessHandle{
		format:    currentFormat,
		Challenge: strings.Repeat("c", 43),
		From:      netip.MustParseAddr("203.0.113.9"),
		Host:      "build-1",
		Code:      "WDJB-MJHT",
		Expires:   at,
	}
	client := clientRequest{
		Challenge: strings.Repeat("c", 43),
		Callback:  "http://127.0.0.1:49152/callback",
		State:     "state-of-tsh",
		Host:      state.ClientHost{Name: "laptop", Addr: netip.MustParseAddr("192.0.2.7")},
	}
	return map[string][2]versioned{
		"begun": {&begunAttempt{
			format: currentFormat,
			ID:     "ATTEMPT",
			Client: client,
			Flow: oidc.Flow{
				Connector: "corp",
				Redirect:  "https://proxy.example.com/login/callback/corp",
				State:     "state",
				Nonce:     "nonce",
				Verifier:  "verifier",
			},
			Expires: at,
		}, new(begunAttempt)},
		"reference": {&attemptRef{format: currentFormat, ID: "ATTEMPT", Expires: at}, new(attemptRef)},
		"identified": {&identifiedAttempt{
			format: currentFormat,
			Client: clientRequest{Challenge: handle.Challenge, Host: handle.host(), Headless: handle},
			User: identity.Identity{
				V:         identity.Version,
				Kind:      identity.User,
				Profile:   identity.UserProfile,
				Cluster:   "example.com",
				Name:      "alice@example.com",
				Connector: "corp",
				Subject:   "sub-alice",
				LoginID:   "login-1",
				Roles:     []string{"dev"},
			},
			ConnectorRevision: 7,
			Challenges: []factor.Challenge{
				{Kind: "totp", Enrol: true, Body: json.RawMessage(`{"uri":"otpauth://totp/x","secret":"JBSWY3DP"}`)},
			},
		}, new(identifiedAttempt)},
		"headless": {handle, new(headlessHandle)},
	}
}

// What an earlier release sealed or stored is read as it was meant, whatever this release writes.
func TestGoldenAttemptsAreRead(t *testing.T) {
	t.Parallel()
	for name, pair := range structures() {
		file := "testdata/" + name + ".json"
		if *update {
			b, err := json.MarshalIndent(pair[0], "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, golden); err != nil {
			t.Fatal(err)
		}
		err = decode("test", compact.Bytes(), pair[1])
		if err != nil || !reflect.DeepEqual(pair[1], pair[0]) {
			t.Errorf("%s: got %+v and %v, want %+v", name, pair[1], err, pair[0])
		}
	}
}

// A field that a newer replica added is ignored. One that it calls critical, or a newer version, is refused
// with what to do.
func TestNewerAttempts(t *testing.T) {
	t.Parallel()
	for name, pair := range structures() {
		plain, err := json.Marshal(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		with := func(fields string) []byte {
			return []byte(strings.Replace(string(plain), `"v":1`, fields, 1))
		}
		if err := decode("test", with(`"v":1,"future":{"a":1}`), pair[1]); err != nil {
			t.Errorf("%s: got %v for an unknown field, want it ignored", name, err)
		}
		for _, fields := range []string{`"v":1,"future":1,"critical":["future"]`, `"v":2`, `"v":0`} {
			err := decode("test", with(fields), pair[1])
			if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Remedy(err), "update") {
				t.Errorf("%s with %s: got %v, want it refused with a remedy", name, fields, err)
			}
		}
	}
}

func FuzzOpenAttempt(f *testing.F) {
	s, err := newSealer(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	ref := attemptRef{format: currentFormat, ID: "ATTEMPT", Expires: now.Add(time.Hour)}
	good, err := s.seal("fuzz", stageIdentified, ref)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		var got attemptRef
		if err := s.open("fuzz", stageIdentified, text, now, &got); err == nil && text != good {
			t.Errorf("got %+v from a text that was not sealed", got)
		}
	})
}
