package audit_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

var update = flag.Bool("update", false, "write the golden file and docs/audit.schema.json anew")

// goldenEvents has one event of each code, one a line, as version 1 writes them. Later versions must read
// them.
const goldenEvents = "testdata/events.v1.jsonl"

// fullBodies are bodies with every field.
func fullBodies(t *testing.T) []audit.Body {
	t.Helper()
	d, err := audit.NewDocument(map[string]string{"kind": "role"})
	if err != nil {
		t.Fatal(err)
	}
	status, end := 3, noon.Add(1e9)
	return []audit.Body{
		audit.Login{Factor: "totp", Host: "laptop", Headless: "192.0.2.9"},
		audit.LoginRefusal{Reason: "wrong code"},
		audit.FactorEnrolment{Factor: "totp"},
		audit.FactorLockout{Until: end},
		audit.RecoveryUse{},
		audit.Issuance{Serial: 1<<63 + 1, Until: end},
		audit.Renewal{Serial: 7, Until: end},
		audit.Join{Kind: "node", Token: "t1", By: "root"},
		audit.JoinRefusal{Kind: "node", Token: "t1", Reason: "it was used"},
		audit.SessionStart{
			Session: "s1", Login: "root", Program: "exec", Command: "true", Terminal: true, Protocol: "dial",
			Rule: "role ops, allow 1",
		},
		audit.SessionEnd{
			Session: "s1", Login: "root", Program: "exec", Terminal: true, Protocol: "dial",
			Rule: "role ops, allow 1", BytesIn: 1, BytesOut: 2, Status: &status, Signal: "HUP", Cause: "idle",
			Reason: "it was idle",
		},
		audit.SessionRefusal{
			Login: "root", Request: "exec", Protocol: "ssh", Rule: "role ops, deny 1", Reason: "not allowed",
		},
		audit.ForwardStart{
			Login: "root", Forward: "local", Target: "db:5432", Protocol: "ssh", Rule: "role ops, allow 1",
		},
		audit.ResourceChange{Kind: "roles", Name: "ops", Before: d, After: d},
		audit.ResourceRemoval{Kind: "roles", Name: "ops", Before: d},
		audit.ResourceRefusal{
			Action: "apply", Kind: "roles", Name: "ops", Rule: "role dev, deny 1", Reason: "not allowed",
		},
		audit.TokenCreation{Token: "t1", Kind: "node", Expires: end, After: d},
		audit.ClusterCreation{Cluster: "example.com", Pin: "sha256:00"},
		audit.AuthStart{Version: "v1.0.0"},
		audit.LogTrim{Before: 100, Digest: "00", Retention: "2160h"},
	}
}

// readGolden returns the lines of the golden file, which -update writes anew.
func readGolden(t *testing.T) [][]byte {
	t.Helper()
	if *update {
		var out []byte
		for _, body := range fullBodies(t) {
			b, err := newEvent(body).Encode()
			if err != nil {
				t.Fatal(err)
			}
			out = append(append(out, b...), '\n')
		}
		if err := os.WriteFile(goldenEvents, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(goldenEvents)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]byte
	for scan := bufio.NewScanner(bytes.NewReader(b)); scan.Scan(); {
		lines = append(lines, bytes.Clone(scan.Bytes()))
	}
	return lines
}

// Others search the log by these keys. The file has every field of every code.
func TestTheJSONFormOfEvents(t *testing.T) {
	t.Parallel()
	lines, bodies := readGolden(t), fullBodies(t)
	if len(lines) != len(bodies) || len(bodies) != len(audit.Registry()) {
		t.Fatalf("got %d lines and %d bodies of %d codes", len(lines), len(bodies), len(audit.Registry()))
	}
	for i, body := range bodies {
		for j := range reflect.TypeOf(body).NumField() {
			if reflect.ValueOf(body).Field(j).IsZero() {
				t.Errorf("%T: got no %s in the golden file", body, reflect.TypeOf(body).Field(j).Name)
			}
		}
		got, err := newEvent(body).Encode()
		if err != nil || !bytes.Equal(got, lines[i]) {
			t.Errorf("%T: got\n%s and %v, want\n%s", body, got, err, lines[i])
		}
		var back audit.Event
		if err := json.Unmarshal(lines[i], &back); err != nil || back.Check() != nil {
			t.Errorf("%T: got %v and %v, want the line accepted", body, err, back.Check())
		}
		if !reflect.DeepEqual(back, newEvent(body)) {
			t.Errorf("%T: got %+v back, want the same event", body, back)
		}
	}
}

// A newer machine sends an event with one more field in the envelope and in the body: the event is accepted,
// and what is in the body is kept. If it calls one of them critical, or is of a newer version, the event is
// refused with a remedy.
func TestEventsOfANewerRelease(t *testing.T) {
	t.Parallel()
	for _, line := range readGolden(t) {
		newer := func(critical string, v string) (e audit.Event) {
			s := strings.Replace(string(line), `{"v":1,`, `{"v":`+v+`,"critical":[`+critical+`],"new":1,`, 1)
			s = strings.Replace(s, `"body":{`, `"body":{"newer":"kept"`, 1)
			s = strings.Replace(s, `"kept""`, `"kept","`, 1)
			if err := json.Unmarshal([]byte(s), &e); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
			return e
		}
		for _, known := range []string{"", `"from"`, `"machine.id"`} {
			e := newer(known, "1")
			b, err := e.Encode()
			if err != nil || !bytes.Contains(b, []byte(`"newer":"kept"`)) {
				t.Errorf("got %s and %v with critical [%s], want it accepted and kept", b, err, known)
			}
		}
		for _, e := range []audit.Event{newer(`"new"`, "1"), newer(`"body.newer"`, "1"), newer("", "2")} {
			err := e.Check()
			if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "version ") ||
				!strings.Contains(fault.Remedy(err), "update") {
				t.Errorf("%s: got %v, want it refused with version and remedy", e.Code, err)
			}
		}
	}
}
