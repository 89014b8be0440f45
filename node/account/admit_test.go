package account_test

import (
	"maps"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
)

const (
	morePasswd = `locked:x:1003:1003::/:/bin/sh
expired:x:1004:1004::/:/bin/sh
malformed:x:1005:1005::/:/bin/sh
`
	shadow = `root:*:19000:0:99999:7:::
alice:!:19000:0:99999:7::20000:
locked:!$6$x:0:0:1:7:0::
expired:*:19000:0:99999:7::0:
malformed:*:19000:0:99999:7::soon:
`
)

// An account is refused from its expiry in shadow(5) on, and while nologin(5) closes the machine, except for
// root. Passwords do not matter.
func TestAdmitFollowsNologinAndShadow(t *testing.T) {
	t.Parallel()
	withoutShadow := map[string]string{
		"etc/passwd": accounttest.Passwd + morePasswd,
		"etc/group":  accounttest.Group,
	}
	with := func(name, text string) map[string]string {
		files := maps.Clone(withoutShadow)
		files["etc/shadow"] = shadow
		files[name] = text
		return files
	}
	usual := with("etc/shadow", shadow)
	closed, booting := with("etc/nologin", "Going down\n\x1b[2Jat  noon.\n"), with("run/nologin", "")
	day := func(n int64) time.Time { return time.Unix(n*86400, 0) }
	for _, tt := range []struct {
		name  string
		files map[string]string
		login identity.Login
		uid   uint32
		now   time.Time
		kind  fault.Kind // empty: admitted
		text  string
	}{
		{"the day before the expiry", usual, "alice", 0, day(20000).Add(-time.Second), "", ""},
		{"from the expiry on", usual, "alice", 0, day(20000), fault.Denied, "alice of this node has expired"},
		{"an expiry on 1970-01-01", usual, "expired", 0, day(20000), fault.Denied, "expired"},
		{"an expiry that is not a number", usual, "malformed", 0, day(20000), "", ""},
		{"a locked and old password", usual, "locked", 0, day(20000), "", ""},
		{"an account that is not in shadow", usual, "noshell", 0, day(20000), "", ""},
		{"a node that is not root", usual, "alice", 1000, day(20001), "", ""},
		{"no shadow file", withoutShadow, "alice", 0, day(20001), "", ""},
		{"a closed machine", closed, "noshell", 0, day(1), fault.Unavailable, "moment: Going down"},
		{"a machine that boots", booting, "noshell", 0, day(1), fault.Unavailable, "lets only root in"},
		{"root on a closed machine", closed, "root", 0, day(1), "", ""},
		{"an unknown account", usual, "nobody-here", 0, day(1), fault.NotFound, "no account"},
	} {
		db := account.Database{
			Root: accounttest.WriteFiles(t, tt.files),
			UID:  tt.uid,
			Now:  func() time.Time { return tt.now },
		}
		acc, err := db.Admit(tt.login)
		if tt.kind != "" {
			wantFault(t, tt.name, err, tt.kind, tt.text)
		} else if err != nil || acc.Login != tt.login {
			t.Errorf("%s: got %+v, %v, want it admitted", tt.name, acc, err)
		}
	}
}
