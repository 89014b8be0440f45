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

// databaseWithUID is the database as a process with this user id reads it.
func databaseWithUID(t *testing.T, uid uint32) account.Database {
	t.Helper()
	files := map[string]string{"etc/passwd": accounttest.Passwd, "etc/group": accounttest.Group}
	return account.Database{Root: accounttest.WriteFiles(t, files), UID: uid}
}

func TestFindReadsPasswdAndGroup(t *testing.T) {
	t.Parallel()
	db := databaseWithUID(t, 0)
	got, err := db.Find("alice")
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != 1000 || got.GID != 1000 || got.Home != "/home/alice" || got.Shell != "/bin/zsh" ||
		!slices.Equal(got.Groups, []uint32{1000, 27, 998}) {
		t.Errorf("got %+v, want the first alice with groups 1000, 27 and 998", got)
	}
	if got, err := db.Find("noshell"); err != nil || got.Shell != "/bin/sh" {
		t.Errorf("got %+v, %v, want /bin/sh where the file names no shell", got, err)
	}
	if got, err := db.Find("nohome"); err != nil || got.Home != "/" {
		t.Errorf("got %+v, %v, want / where the file names no home", got, err)
	}
}

// Accounts that do not exist, have malformed or unsafe ids, or cannot be become by this process are refused,
// each with its kind of fault.
func TestFindRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		login identity.Login
		uid   uint32
		kind  fault.Kind
		text  string
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
		wantFault(t, string(tt.login), err, tt.kind, tt.text)
	}
	if _, err := databaseWithUID(t, 1000).Find("alice"); err != nil {
		t.Errorf("got %v, want a process to become its own account", err)
	}
	if _, err := (account.Database{Root: "/none"}).Find("root"); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v without a passwd file, want an internal fault", err)
	}
}

// wantFault checks that the error is of the kind, contains the text, and has a remedy.
func wantFault(t *testing.T, name string, err error, kind fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(fault.Message(err), text) || fault.Remedy(err) == "" {
		t.Errorf("%q: got %v, want kind %s with %q and a remedy", name, err, kind, text)
	}
}
