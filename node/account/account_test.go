package account_test

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func databaseWithUID(t *testing.T, uid uint32) account.Database {
	t.Helper()
	files := map[string]string{"etc/passwd": accounttest.Passwd, "etc/group": accounttest.Group}
	return account.Database{Root: accounttest.WriteFiles(t, files), UID: uid}
}

func TestFindReadsPasswdAndGroup(t *testing.T) {
	a := databaseWithUID(t, 0)
	got, err := a.Find("alice")
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != 1000 || got.GID != 1000 || got.Home != "/home/alice" || got.Shell != "/bin/zsh" ||
		!slices.Equal(got.Groups, []uint32{1000, 27, 998}) {
		t.Errorf("got %+v, want the first alice with groups 1000, 27 and 998", got)
	}
	if got, err := a.Find("noshell"); err != nil || got.Shell != "/bin/sh" {
		t.Errorf("got %+v, %v, want /bin/sh where the file names none", got, err)
	}
	if got, err := a.Find("nohome"); err != nil || got.Home != "/" {
		t.Errorf("got %+v, %v, want / where the file names none", got, err)
	}
}

func TestFindRefusals(t *testing.T) {
	for _, tt := range []struct {
		login identity.Login
		uid   uint32
		kind  fault.Kind
		words string
	}{
		{"nobody-here", 0, fault.NotFound, "no account"},
		{"broken", 0, fault.NotFound, "no account"},
		{"negative", 0, fault.NotFound, "no account"},
		{"unset", 0, fault.NotFound, "no account"},
		{"unsetgroup", 0, fault.NotFound, "no account"},
		{"../x", 0, fault.Invalid, "plain account name"},
		{"", 0, fault.Invalid, "plain account name"},
		{"root", 1000, fault.Denied, "runs as alice, not as root"},
		{"noshell", 4242, fault.Denied, "user id 4242"},
	} {
		_, err := databaseWithUID(t, tt.uid).Find(tt.login)
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.words) ||
			fault.Remedy(err) == "" {
			t.Errorf(
				"%q as %d: got %v, want kind %s with %q and a remedy",
				tt.login,
				tt.uid,
				err,
				tt.kind,
				tt.words,
			)
		}
	}
	if _, err := databaseWithUID(t, 1000).Find("alice"); err != nil {
		t.Errorf("got %v, want a process to be its own account", err)
	}
	if _, err := (account.Database{Root: "/none"}).Find("root"); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v without an account file, want an internal fault", err)
	}
}
