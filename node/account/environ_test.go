package account_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
)

// Quotes, comments and malformed lines are read as pam_env(8) reads them. Variables of the loader and of the
// session cannot be set.
func TestEnvironParsesFilesAsPamEnvDoes(t *testing.T) {
	t.Parallel()
	db := account.Database{Root: accounttest.WriteFiles(t, map[string]string{
		"etc/default/locale": "#  comment\nLANG=ko_KR.UTF-8\n",
		"etc/environment": strings.Join([]string{
			"LD_PRELOAD=/tmp/x.so", "SSH_CLIENT=1.2.3.4 5 6", "THRESHOLD_USER=mallory", "TERM=x",
			"1X=no", "A B=no", "export EXPORTED=yes", `QUOTED='a b'`, `ODD="`, "COMMENTED=a # b",
			`HASH="c#d"`, `HALF="x y" z`,
			`INNER="a"b"`, `LATE=a"b"c`, `MIXED="it'`, "EMPTY=", "LAST=1",
		}, "\n"),
	})}
	want := map[string]string{
		"PATH": account.UserPath, "LANG": "ko_KR.UTF-8", "EXPORTED": "yes", "QUOTED": "a b", "ODD": "",
		"COMMENTED": "a", "HASH": "c", "HALF": `x y" z`, "INNER": `a"b`, "LATE": `a"b"c`, "MIXED": "it",
		"EMPTY": "", "LAST": "1",
	}
	if got := db.Environ(account.Account{UID: 1000}); !maps.Equal(got, want) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				t.Errorf("%s: got %q, want %q", name, got[name], want[name])
			}
		}
		t.Errorf("got %q, want %q", got, want)
	}
	if got := db.Environ(account.Account{UID: 0})["PATH"]; !strings.Contains(got, "/sbin") {
		t.Errorf("got PATH %q for root, want it with sbin", got)
	}
}
