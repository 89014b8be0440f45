package account_test

import (
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
)

const shadow = `root:*:19000:0:99999:7:::
alice:!:19000:0:99999:7::20000:
locked:!$6$x:0:0:1:7:0::
gone:*:19000:0:99999:7::0:
odd:*:19000:0:99999:7::soon:
`

func TestAdmitFollowsNologinAndShadow(t *testing.T) {
	people := accounttest.Passwd + "locked:x:1003:1003::/:/bin/sh\ngone:x:1004:1004::/:/bin/sh\nodd:x:1005:1005::/:/bin/sh\n"
	usual := map[string]string{"etc/passwd": people, "etc/group": accounttest.Group, "etc/shadow": shadow}
	with := func(name, text string) map[string]string {
		files := map[string]string{name: text}
		for k, v := range usual {
			files[k] = v
		}
		return files
	}
	day := func(n int64) time.Time { return time.Unix(n*86400, 0) }
	for _, tt := range []struct {
		name  string
		files map[string]string
		login identity.Login
		uid   uint32
		now   time.Time
		kind  fault.Kind // empty: let in
		words string
	}{
		{"the day before its end", usual, "alice", 0, day(20000).Add(-time.Second), "", ""},
		{"from its end on", usual, "alice", 0, day(20000), fault.Denied, "alice of this node has expired"},
		{"an end on the first of days", usual, "gone", 0, day(20000), fault.Denied, "expired"},
		{"an end that is no number", usual, "odd", 0, day(20000), "", ""},
		{"a password that is locked and old", usual, "locked", 0, day(20000), "", ""},
		{"an account that the file does not know", usual, "noshell", 0, day(20000), "", ""},
		{"a node that is not root", usual, "alice", 1000, day(20001), "", ""},
		{"no file of ends", map[string]string{"etc/passwd": people, "etc/group": accounttest.Group}, "alice", 0, day(20001), "", ""},
		{"a closed machine", with("etc/nologin", "Going down\n\x1b[2Jat  noon.\n"), "noshell", 0, day(1), fault.Unavailable, "only root in at the moment: Going down"},
		{"a machine that starts", with("run/nologin", ""), "noshell", 0, day(1), fault.Unavailable, "only root in at the moment"},
		{"root on a closed machine", with("etc/nologin", "Going down"), "root", 0, day(1), "", ""},
		{"nobody", usual, "nobody-here", 0, day(1), fault.NotFound, "no account"},
	} {
		a := account.Database{
			Root: accounttest.WriteFiles(t, tt.files),
			UID:  tt.uid,
			Now:  func() time.Time { return tt.now },
		}
		acc, err := a.Admit(tt.login)
		if tt.kind == "" {
			if err != nil || acc.Login != tt.login {
				t.Errorf("%s: got %+v, %v, want it let in", tt.name, acc, err)
			}
			continue
		}
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.words) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want kind %s with %q and a remedy", tt.name, err, tt.kind, tt.words)
		}
	}
}
