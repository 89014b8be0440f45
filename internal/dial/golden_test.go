package dial_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

func golden(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// message is a message of the dial protocol.
func message(version byte, body string) *bytes.Reader {
	b := binary.BigEndian.AppendUint16([]byte{version}, uint16(len(body)))
	return bytes.NewReader(append(b, body...))
}

// begin returns the JSON object with more fields at its beginning.
func begin(object, fields string) string { return "{" + fields + "," + object[1:] }

// wantNewer checks that err says which version or field is not known, and what to do.
func wantNewer(t *testing.T, what string, err error, says string) {
	t.Helper()
	if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), says) ||
		fault.Remedy(err) == "" {
		t.Errorf("%s: got %v, want an error that says %q, with a remedy", what, err, says)
	}
}

const (
	later         = `"later":{"is":"ignored"}`
	laterCritical = `"critical":["later"],"later":true`
	saysField     = `does not know the field "later"`
	saysVersion   = "is of version 2, this program reads 1 to 1"
)

func TestGoldenRequestIsRead(t *testing.T) {
	t.Parallel()
	body := golden(t, "request.json")
	want := dial.Request{
		Node:         "web-1.example.com",
		Features:     wire.Features{"faults", "of-a-later-release"},
		MachineLocks: &rules.Revision{Epoch: 1, Index: 56},
	}
	for _, b := range []string{body, begin(body, later)} {
		if got, err := dial.ReadRequest(message(1, b)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", b, got, err, want)
		}
	}
	_, err := dial.ReadRequest(message(2, body))
	wantNewer(t, "a newer version", err, saysVersion)
	_, err = dial.ReadRequest(message(1, begin(body, laterCritical)))
	wantNewer(t, "a critical field", err, saysField)
}

// A reply that cannot be used is refused. A refusal is shown whatever else it has.
func TestGoldenRepliesAreRead(t *testing.T) {
	t.Parallel()
	body := golden(t, "reply.json")
	want := dial.Reply{
		Features:     wire.Features{"one"},
		NodeFeatures: wire.Features{"early-requests", "of-a-later-release"},
		MachineLocks: &rules.Signed{Payload: []byte("{}"), Sig: []byte{1, 2, 3}},
	}
	large := `{"machine_locks_at":{"epoch":1,"index":57}}`
	wantLarge := dial.Reply{MachineLocksAt: &rules.Revision{Epoch: 1, Index: 57}}
	if got, err := dial.ReadReply(message(1, large)); err != nil || !reflect.DeepEqual(got, wantLarge) {
		t.Errorf("%s: got %+v, %v, want %+v", large, got, err, wantLarge)
	}
	for _, b := range []string{body, begin(body, later)} {
		if got, err := dial.ReadReply(message(1, b)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", b, got, err, want)
		}
	}
	_, err := dial.ReadReply(message(2, body))
	wantNewer(t, "a newer version", err, saysVersion)
	_, err = dial.ReadReply(message(1, begin(body, laterCritical)))
	wantNewer(t, "a critical field", err, saysField)

	refusal := golden(t, "refusal.json")
	for _, b := range []string{refusal, begin(refusal, later), begin(refusal, laterCritical)} {
		got, err := dial.ReadReply(message(1, b))
		if err != nil || got.Fault == nil || got.Fault.Code != "node-not-reachable" ||
			got.Fault.Remedy == "" {
			t.Errorf("%s: got %+v, %v, want the refusal", b, got.Fault, err)
		}
	}
}

func TestGoldenPingIsRead(t *testing.T) {
	t.Parallel()
	body := golden(t, "ping.json")
	for _, b := range []string{body, begin(body, later)} {
		got, err := dial.ReadPing(strings.NewReader(b))
		if err != nil || got.Cluster != "example.com" || got.Transport != dial.WebSocket ||
			got.Pin.String() != "sha256:"+strings.Repeat("ab", 32) || got.Time.Year() != 2026 {
			t.Errorf("%s: got %+v, %v, want the golden document", b, got, err)
		}
	}
	_, err := dial.ReadPing(strings.NewReader(strings.Replace(body, `"v":1`, `"v":2`, 1)))
	wantNewer(t, "a newer version", err, saysVersion)
	_, err = dial.ReadPing(strings.NewReader(begin(body, laterCritical)))
	wantNewer(t, "a critical field", err, saysField)
}

func TestGoldenFeaturesAreRead(t *testing.T) {
	t.Parallel()
	body := golden(t, "features.json")
	want := wire.Features{"early-requests", "of-a-later-release"}
	for _, b := range []string{body, begin(body, later), string(dial.MarshalFeatures(want))} {
		if got, err := dial.ParseFeatures([]byte(b)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v, want %v", b, got, err, want)
		}
	}
	_, err := dial.ParseFeatures([]byte(strings.Replace(body, `"v":1`, `"v":2`, 1)))
	wantNewer(t, "a newer version", err, saysVersion)
	_, err = dial.ParseFeatures([]byte(begin(body, laterCritical)))
	wantNewer(t, "a critical field", err, saysField)
	for name, b := range map[string]string{
		"nothing": "", "no JSON": "early-requests", "more than allowed": `{"v":1,"x":"` +
			strings.Repeat("x", dial.MaxBytes) + `"}`, "odd text": `{"v":1,"features":["\u001b[2J"]}`,
	} {
		if got, err := dial.ParseFeatures([]byte(b)); err == nil {
			t.Errorf("%s: got %v, want it refused", name, got)
		}
	}
}

func TestGoldenEarlyRequestsAreRead(t *testing.T) {
	t.Parallel()
	b, err := hex.DecodeString(golden(t, "early.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := []dial.ChannelRequest{{Type: "env", Payload: []byte("LANG")}, {Type: "shell", Payload: []byte{}}}
	if got, err := dial.ParseEarlyRequests(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func FuzzParseFeatures(f *testing.F) {
	f.Add([]byte(`{"v":1,"features":["early-requests"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		features, err := dial.ParseFeatures(b)
		if err != nil {
			return
		}
		again, err := dial.ParseFeatures(dial.MarshalFeatures(features))
		if err != nil || len(again) != len(features) {
			t.Errorf("got %v, %v, want %v", again, err, features)
		}
	})
}
