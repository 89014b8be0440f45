package audit_test

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const anID = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

var alice = identity.Identity{
	Kind:      identity.User,
	Name:      "alice",
	Connector: "corp",
	Subject:   "1",
	LoginID:   "login-1",
}

// newEvent is an event with a body and with every field of the envelope.
func newEvent(body audit.Body) audit.Event {
	e := audit.New(noon, alice, body).Via("edge", netip.MustParseAddrPort("192.0.2.7:40022"))
	node := audit.Machine{Kind: identity.Node, ID: anID, Name: "web-1"}
	e.ID, e.SaidBy, e.Machine, e.Connection = anID, node, node, "c1"
	e.Spool, e.Number, e.Lost, e.Received, e.Late = anID, 7, 2, noon.Add(time.Hour), true
	return e
}

func TestTruncateEndsAtAWholeCharacterWithinTheBound(t *testing.T) {
	t.Parallel()
	if got := audit.Truncate("web-1"); got != "web-1" {
		t.Errorf("got %q, want a short text as it is", got)
	}
	for shift := range 3 {
		got := audit.Truncate(strings.Repeat("x", shift) + strings.Repeat("한", audit.MaxText))
		if len(got) > audit.MaxText || !utf8.ValidString(got) || !strings.HasSuffix(got, "한…") {
			t.Errorf(
				"got %d bytes ending in %q, want whole characters and at most %d bytes",
				len(got), got[len(got)-8:], audit.MaxText,
			)
		}
	}
}

func TestEveryCodeHasItsOwnDescription(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^TH[1-9][0-9]{3}$`)
	codeOf := map[string]audit.Code{}
	for _, entry := range audit.Registry() {
		text := audit.Describe(entry.Code)
		if !form.MatchString(string(entry.Code)) || text == "" {
			t.Errorf("got code %q with %q, want TH and four digits, and a description", entry.Code, text)
		}
		if other, taken := codeOf[text]; taken {
			t.Errorf("got %q for %s and %s, want descriptions that differ", text, entry.Code, other)
		}
		codeOf[text] = entry.Code
		if e := audit.New(noon, alice, entry.Body); e.Code != entry.Code || e.V != entry.Since ||
			e.Outcome != entry.Outcome {
			t.Errorf("got %+v from the body of %s, want its code, version and outcome", e, entry.Code)
		}
	}
}

// An event names the user or the machine that did something; an event of a machine is also about it.
func TestNewNamesTheUserOrTheMachine(t *testing.T) {
	t.Parallel()
	seoul := noon.In(time.FixedZone("KST", 9*60*60))
	got := audit.New(seoul, alice, audit.RecoveryUse{})
	wantActor := audit.Actor{
		Kind: identity.User, Name: "alice", Connector: "corp", Subject: "1", LoginID: "login-1",
	}
	if got.Actor != wantActor || got.Machine != (audit.Machine{}) || got.Time != noon {
		t.Errorf("got %+v, want alice at noon in UTC", got)
	}
	for _, kind := range []identity.Kind{identity.Node, identity.Proxy, identity.Auth} {
		id := identity.Identity{Kind: kind, Name: "m-1", ID: anID}
		got := audit.New(noon, id, audit.AuthStart{})
		wantActor := audit.Actor{Kind: kind, Name: "m-1", ID: anID}
		if got.Actor != wantActor || got.Machine != audit.MachineOf(id) {
			t.Errorf("%s: got %+v, want the machine", kind, got)
		}
	}
	nobody := audit.New(noon, identity.Identity{}, audit.RecoveryUse{})
	if b, err := json.Marshal(nobody); err != nil || strings.Contains(string(b), "actor") {
		t.Errorf("got %s and %v, want no actor", b, err)
	}
}

func TestBodyOfReadsOnlyTheBodyOfItsCode(t *testing.T) {
	t.Parallel()
	e := newEvent(audit.LoginRefusal{Reason: "wrong code"})
	if got, err := audit.BodyOf[audit.LoginRefusal](e); err != nil || got.Reason != "wrong code" {
		t.Errorf("got %+v and %v, want the reason", got, err)
	}
	if got, err := audit.BodyOf[audit.JoinRefusal](e); err == nil {
		t.Errorf("got %+v, want no body of another code", got)
	}
}

// Each case is an event with one thing wrong. The same event without it is accepted.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	tooLong := strings.Repeat("x", audit.MaxText+1)
	refusal := func(reason string) json.RawMessage {
		return json.RawMessage(`{"reason":"` + reason + `"}`)
	}
	for name, tt := range map[string]struct {
		change func(*audit.Event)
		want   string
	}{
		"no code":                     {func(e *audit.Event) { e.Code = "" }, "not registered"},
		"an unregistered code":        {func(e *audit.Event) { e.Code = "TH9" }, `"TH9" is not`},
		"a code of many bytes":        {func(e *audit.Event) { e.Code = audit.Code(tooLong) }, "not registered"},
		"no version":                  {func(e *audit.Event) { e.V = 0 }, "version 0"},
		"a newer version":             {func(e *audit.Event) { e.V = 2 }, "version 2"},
		"an unknown critical field":   {func(e *audit.Event) { e.Critical = []string{"body.x"} }, `"body.x"`},
		"no id":                       {func(e *audit.Event) { e.ID = "" }, "id is not"},
		"a short id":                  {func(e *audit.Event) { e.ID = e.ID[1:] }, "id is not"},
		"an id that is no hex number": {func(e *audit.Event) { e.ID = strings.Repeat("Z", 32) }, "id is not"},
		"a number without a spool":    {func(e *audit.Event) { e.Spool = "" }, "no place in a spool"},
		"a spool without a number":    {func(e *audit.Event) { e.Number = 0 }, "no place in a spool"},
		"a malformed spool":           {func(e *audit.Event) { e.Spool = "x" }, "no place in a spool"},
		"no time":                     {func(e *audit.Event) { e.Time = time.Time{} }, "no time"},
		"the outcome of another code": {func(e *audit.Event) { e.Outcome = audit.Success }, "another outcome"},
		"an actor without a name":     {func(e *audit.Event) { e.Actor.Name = "" }, "no actor.name"},
		"a long user":                 {func(e *audit.Event) { e.Actor.Name = tooLong }, "actor.name has 1025 bytes"},
		"a long machine":              {func(e *audit.Event) { e.Machine.Name = tooLong }, "1025 bytes"},
		"a long address":              {func(e *audit.Event) { e.From = tooLong }, "1025 bytes"},
		"a long connection":           {func(e *audit.Event) { e.Connection = identity.ConnectionID(tooLong) }, "1025 bytes"},
		"no body":                     {func(e *audit.Event) { e.Body = nil }, "form of TH1002"},
		"a body that is null":         {func(e *audit.Event) { e.Body = json.RawMessage("null") }, "form of TH1002"},
		"a list as body":              {func(e *audit.Event) { e.Body = json.RawMessage("[]") }, "form of TH1002"},
		"a body of another form": {
			func(e *audit.Event) { e.Body = json.RawMessage(`{"reason":7}`) }, "form of TH1002",
		},
		"a body without its reason": {func(e *audit.Event) { e.Body = refusal("") }, "no body.reason"},
		"a long text in the body":   {func(e *audit.Event) { e.Body = refusal(tooLong) }, "body.reason has 1025"},
	} {
		e := newEvent(audit.LoginRefusal{Reason: "wrong code"})
		if err := e.Check(); err != nil {
			t.Fatalf("got %v for an event with every field, want it accepted", err)
		}
		tt.change(&e)
		err := e.Check()
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), tt.want) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it invalid with %q and a remedy", name, err, tt.want)
		} else if len(fault.Message(err)) > 200 {
			t.Errorf("%s: got an error of %d bytes, want a short one", name, len(fault.Message(err)))
		}
	}
}

// An event with two resources of any size can be encoded; one that is larger than a record of the log cannot.
func TestEventsAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1 << 10, 23 << 10, 1 << 20} {
		resource := map[string]string{"x": strings.Repeat("x", size)}
		d, err := audit.NewDocument(resource)
		if err != nil {
			t.Fatal(err)
		}
		if small := size < 24<<10; small != (d.Resource != nil) || d.Bytes != size+len(`{"x":""}`) {
			t.Errorf("got %d bytes with resource %t, want it only if it is small", d.Bytes, d.Resource != nil)
		}
		e := newEvent(audit.ResourceChange{Kind: "roles", Name: "ops", Before: d, After: d})
		if b, err := e.Encode(); err != nil || len(b) > audit.MaxBytes {
			t.Errorf("got %d bytes and %v for two resources of %d bytes", len(b), err, size)
		}
	}
	e := newEvent(audit.RecoveryUse{})
	e.Body = json.RawMessage(`{"x":"` + strings.Repeat("x", audit.MaxBytes) + `"}`)
	if _, err := e.Encode(); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), "65536") {
		t.Errorf("got %v, want it too large", err)
	}
}

func TestSecretsAreDigests(t *testing.T) {
	t.Parallel()
	one, two := audit.DigestSecret("one"), audit.DigestSecret("two")
	if one == two || strings.Contains(one, "one") || !strings.HasPrefix(one, "sha256:") {
		t.Errorf("got %q and %q, want digests that differ", one, two)
	}
	if got := audit.DigestSecret(""); got != "" {
		t.Errorf("got %q for no secret, want nothing", got)
	}
}
