package open_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/open"
)

// The log says who has what open and why it is not allowed, in a bounded number of lines.
func TestDenialsAreLoggedAndCounted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &open.Log{Log: slog.New(slog.NewTextHandler(&out, nil))}
	alice := &holder{name: "alice"}
	d := open.Denial{
		Use:     useOf("alice", access.Shell),
		User:    alice.User(),
		Reason:  errors.New("lock 1 denies it"),
		Holders: []open.Holder{alice, alice},
	}
	d.User.Serial, d.User.LoginID = 7, "login-1"
	l.Denied([]open.Denial{d})
	for _, want := range []string{
		"user=alice", "connector=corp", "login_id=login-1", "serial=7", "login=ubuntu", "action=shell", "open=2",
		"lock 1 denies it",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s, want %s in it", out.String(), want)
		}
	}
	many := make([]open.Denial, 1000)
	for i := range many {
		many[i] = d
	}
	l.Denied(many)
	lines := strings.Count(out.String(), "\n")
	if lines > 110 || !strings.Contains(out.String(), "uses=900") {
		t.Errorf("got %d lines, want about 100 and how many more there are", lines)
	}
	if got := l.Count(); got != 2002 {
		t.Errorf("got %d counted, want 2002", got)
	}
}
