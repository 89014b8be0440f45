package audit_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fullEvent is an event with every field set.
func fullEvent() audit.Event {
	return audit.Event{
		V: audit.Version, Code: audit.SessionStarted, ID: strings.Repeat("0a", 16), Time: noon,
		User: "alice", Subject: "corp/1", LoginID: "login-1",
		Machine: "web-1", MachineID: "0123456789abcdef0123456789abcdef",
		Login: "root", Session: "s1", From: "192.0.2.7:40022", Proxy: "proxy-1",
		Rule: "role ops, allow 1", Reason: "it is allowed", Fields: map[string]string{"command": "true"},
	}
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
	for code, text := range audit.Descriptions {
		if !form.MatchString(string(code)) || text == "" {
			t.Errorf("got code %q with %q, want TH and four digits, and a description", code, text)
		}
		if other, taken := codeOf[text]; taken {
			t.Errorf("got %q for %s and %s, want descriptions that differ", text, code, other)
		}
		codeOf[text] = code
	}
}

// Others search the log by these keys.
func TestTheJSONFormOfAnEvent(t *testing.T) {
	t.Parallel()
	const want = `{"v":1,"code":"TH3001","id":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a",` +
		`"time":"2026-03-01T12:00:00Z",` +
		`"user":"alice","subject":"corp/1","login_id":"login-1","machine":"web-1",` +
		`"machine_id":"0123456789abcdef0123456789abcdef","login":"root",` +
		`"session":"s1",` +
		`"from":"192.0.2.7:40022",` +
		`"proxy":"proxy-1","rule":"role ops, allow 1","reason":"it is allowed",` +
		`"fields":{"command":"true"}}`
	b, err := json.Marshal(fullEvent())
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v, want %s", b, err, want)
	}
	var back audit.Event
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, fullEvent()) {
		t.Errorf("got %+v, %v back, want the same event", back, err)
	}
}

// An event has the fields of the user or of the machine that it is about.
func TestNewEventNamesTheUserOrTheMachine(t *testing.T) {
	t.Parallel()
	seoul := noon.In(time.FixedZone("KST", 9*60*60))
	user := identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Name:      "alice",
		Connector: "corp",
		Subject:   "1",
		LoginID:   "login-1",
	}
	want := audit.Event{
		V: 1, Code: audit.LoginSucceeded, Time: noon, User: "alice", Subject: "corp/1", LoginID: "login-1",
	}
	if got := audit.NewEvent(audit.LoginSucceeded, user, seoul); !reflect.DeepEqual(got, want) {
		t.Errorf("user: got %+v, want %+v", got, want)
	}
	for _, kind := range []identity.Kind{identity.Node, identity.Proxy, identity.Auth} {
		machine := identity.Identity{Kind: kind, Name: "m-1", ID: "0123456789abcdef0123456789abcdef"}
		want := audit.Event{V: 1, Code: audit.AuthStarted, Time: noon, Machine: "m-1", MachineID: machine.ID}
		if got := audit.NewEvent(audit.AuthStarted, machine, seoul); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", kind, got, want)
		}
	}
}

func TestCheckAcceptsAnEventUpToItsBounds(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", audit.MaxText)
	e := fullEvent()
	e.Reason, e.Fields = longest, map[string]string{}
	for i := range audit.MaxFields {
		e.Fields[fmt.Sprintf("%0*d", audit.MaxText, i)] = longest
	}
	for name, e := range map[string]audit.Event{
		"every field set":           fullEvent(),
		"the least":                 {Code: audit.AuthStarted, ID: strings.Repeat("0", 32), Time: noon},
		"the most and the longest":  e,
		"of a newer format version": {V: 9, Code: audit.AuthStarted, ID: strings.Repeat("0", 32), Time: noon},
	} {
		if err := e.Check(); err != nil {
			t.Errorf("%s: got %v, want it accepted", name, err)
		}
	}
}

// Each case is an event with one thing wrong.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	tooLong := strings.Repeat("x", audit.MaxText+1)
	longLoginID, longID := identity.LoginID(tooLong), identity.MachineID(tooLong)
	for name, tt := range map[string]struct {
		change func(*audit.Event)
		want   string
	}{
		"no code":              {func(e *audit.Event) { e.Code = "" }, "not registered"},
		"an unregistered code": {func(e *audit.Event) { e.Code = "TH9999" }, `"TH9999" is not registered`},
		"no id":                {func(e *audit.Event) { e.ID = "" }, "no id"},
		"a short id":           {func(e *audit.Event) { e.ID = e.ID[1:] }, "no id"},
		"a long id":            {func(e *audit.Event) { e.ID += "0" }, "no id"},
		"no time":              {func(e *audit.Event) { e.Time = time.Time{} }, "no time"},
		"a long user":          {func(e *audit.Event) { e.User = tooLong }, "1025 bytes"},
		"a long subject":       {func(e *audit.Event) { e.Subject = tooLong }, "1025 bytes"},
		"a long login id":      {func(e *audit.Event) { e.LoginID = longLoginID }, "1025 bytes"},
		"a long machine":       {func(e *audit.Event) { e.Machine = tooLong }, "1025 bytes"},
		"a long machine id":    {func(e *audit.Event) { e.MachineID = longID }, "1025 bytes"},
		"a long login":         {func(e *audit.Event) { e.Login = identity.Login(tooLong) }, "1025 bytes"},
		"a long session":       {func(e *audit.Event) { e.Session = tooLong }, "1025 bytes"},
		"a long address":       {func(e *audit.Event) { e.From = tooLong }, "1025 bytes"},
		"a long proxy":         {func(e *audit.Event) { e.Proxy = tooLong }, "1025 bytes"},
		"a long rule":          {func(e *audit.Event) { e.Rule = tooLong }, "1025 bytes"},
		"a long reason":        {func(e *audit.Event) { e.Reason = tooLong }, "1025 bytes"},
		"a long field name":    {func(e *audit.Event) { e.Fields[tooLong] = "" }, "larger than 1024"},
		"a long field value":   {func(e *audit.Event) { e.Fields["k"] = tooLong }, `"k" is larger than 1024`},
		"a code of many bytes": {func(e *audit.Event) { e.Code = audit.Code(tooLong) }, "not registered"},
		"too many fields": {func(e *audit.Event) {
			for i := range audit.MaxFields {
				e.Fields[fmt.Sprint(i)] = ""
			}
		}, "33 fields, more than 32"},
	} {
		e := fullEvent()
		tt.change(&e)
		err := e.Check()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want a refusal with %q", name, err, tt.want)
		} else if len(err.Error()) > 100 {
			t.Errorf("%s: got an error of %d bytes, want a short one", name, len(err.Error()))
		}
	}
}
