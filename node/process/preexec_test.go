package process_test

import (
	"bytes"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/process"
)

const limitsConf = `# domain type item value
*          soft  nofile  300
*          hard  nofile  400   # for everyone
@docker    hard  nofile  500
alice      hard  nofile  600
*          hard  nofile  700
@docker    -     core    unlimited
:500       hard  cpu     1
1000:      -     cpu     2
@998:998   soft  fsize   4
alice      soft  nice    -5
alice      hard  nosuch  5
alice      hard  data    many
root       hard  nofile  800
broken
`

// findAccount returns an account of the database, with a shell and a home that exist.
func findAccount(t *testing.T, db account.Database, login identity.Login) account.Account {
	t.Helper()
	acc, err := db.Find(login)
	if err != nil {
		t.Fatal(err)
	}
	acc.Shell, acc.Home = "/bin/sh", "/"
	return acc
}

func mergeFiles(files ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, m := range files {
		maps.Copy(merged, m)
	}
	return merged
}

// Limits are chosen as pam_limits chooses them: the closest match wins, then the later entry, and an exempt
// account has none.
func TestProgramsStartWithLimitsConf(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root sets limits for other accounts
	}
	t.Parallel()
	files := map[string]string{
		"etc/passwd":               accounttest.Passwd,
		"etc/group":                accounttest.Group,
		"etc/security/limits.conf": limitsConf,
	}
	more := mergeFiles(files, map[string]string{
		"etc/security/limits.d/10-a.conf": "alice hard nofile 650\n",
		"etc/security/limits.d/20-b.conf": "alice hard nofile 660\nnoshell -\n",
		"etc/security/limits.d/x":         "alice hard nofile 1\n",
	})
	const command = `ulimit -Sn; ulimit -Hn; ulimit -St; ulimit -Sf`
	for _, tt := range []struct {
		name  string
		login identity.Login
		files map[string]string
		want  string // empty: as without files
	}{
		{"the login wins over its group, which wins over everyone", "alice", files, "300\n600\n120\n8\n"},
		{"the last of equal entries wins", "nohome", files, "300\n700\n120\nunlimited\n"},
		{"root is matched only by name", "root", files, "800\n800\nunlimited\nunlimited\n"},
		{"later files win", "alice", more, "300\n660\n120\n8\n"},
		{"an exempt account has no limits", "noshell", more, ""},
	} {
		db := account.Database{Root: accounttest.WriteFiles(t, tt.files)}
		acc := findAccount(t, db, tt.login)
		got := runCommand(t, db, acc, command)
		if tt.want == "" {
			tt.want = runCommand(t, account.Database{Root: t.TempDir()}, acc, command)
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestLimitThatCannotBeGrantedIsLowered(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root sets limits for other accounts
	}
	t.Parallel()
	acc, without := accounttest.Other(t), account.Database{Root: t.TempDir()}
	for _, nofile := range []string{"unlimited", "2000000000"} { // more than any kernel grants
		conf := "* - nofile " + nofile + "\n* hard cpu 3\n"
		db := account.Database{
			Root: accounttest.WriteFiles(t, map[string]string{"etc/security/limits.conf": conf}),
		}
		got := runCommand(t, db, acc, "ulimit -n; ulimit -Hn; ulimit -Ht")
		want := runCommand(t, without, acc, "ulimit -Hn; ulimit -Hn; echo 180")
		if got != want {
			t.Errorf("%s: got %q, want %q", nofile, got, want)
		}
	}
}

// The program runs with the limits, umask, ids and no capabilities from its first instruction on. Failures to
// start it name the cause, and the file server works under limits too.
func TestLimitsHoldBeforeTheProgramRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root sets limits for other accounts
	}
	t.Parallel()
	limits := []string{"* - as 400000", "* - data 20000", "* - nproc 200", "* - nofile 64", "* - memlock 64"}
	db := account.Database{Root: accounttest.WriteFiles(t, map[string]string{
		"etc/passwd":               accounttest.Passwd,
		"etc/group":                accounttest.Group,
		"etc/security/limits.conf": strings.Join(limits, "\n") + "\n",
		"etc/login.defs":           "# a comment\nUMASK\t\t027\nUMASKS 1\n",
	})}
	acc := findAccount(t, db, "alice")
	got := runCommand(t, db, acc, "ulimit -Sv; ulimit -Hn; umask; id -u; id -g; id -G; "+
		"grep -h -e ^Cap[EPI] -e ^Uid -e ^Gid /proc/self/status; pwd; tr '\\0' ' ' </proc/$$/cmdline")
	wantAll(t, got,
		"400000\n64\n0027\n1000\n1000\n1000 27 998\n",
		"Uid:\t1000\t1000\t1000\t1000\n",
		"Gid:\t1000\t1000\t1000\t1000\n",
		"CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n",
		"\n/\nsh -c ulimit")
	acc.Home = "/root/no/such"
	if got := runCommand(t, db, acc, "pwd"); got != "/\n" {
		t.Errorf("got %q, want a start in / without a home", got)
	}
	acc.Shell = "/no/such/shell"
	_, err := process.Start(db, acc, process.Spec{Kind: process.Shell})
	const want = "/no/such/shell could not be started as alice: no such file"
	if !fault.Is(err, fault.Internal) || !strings.Contains(fault.Message(err), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	acc.Shell = "/bin/sh"
	program, err := process.Start(db, acc, process.Spec{Kind: process.SFTP})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	exit := program.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	if exit.Code != 0 {
		t.Errorf("got %+v %s, want the file server to run under limits too", exit, errs.String())
	}
}

func TestUmaskComesFromLoginDefs(t *testing.T) {
	t.Parallel()
	acc := accounttest.Own(t)
	for defs, want := range map[string]string{
		"":                       "0022\n",
		"UMASK 077\n":            "0077\n",
		"UMASK 999\nUMASK 002\n": "0002\n",
		"# UMASK 077\nUMASK\n":   "0022\n",
	} {
		db := withFiles(t, map[string]string{"etc/login.defs": defs})
		if got := runCommand(t, db, acc, "umask"); got != want {
			t.Errorf("%q: got %q, want %q", defs, got, want)
		}
	}
}

// Not parallel: it counts the descriptors of the process.
func TestFailedStartsLeakNoDescriptors(t *testing.T) {
	acc := accounttest.Own(t)
	acc.Shell = "/no/such/shell"
	for name, defs := range map[string]string{"directly": "", "by way of a child": "UMASK 077\n"} {
		db := withFiles(t, map[string]string{"etc/login.defs": defs})
		var open []int
		for range 2 {
			list, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, len(list))
			for range 20 {
				if _, err := process.Start(db, acc, process.Spec{Kind: process.Shell}); err == nil {
					t.Fatal("got a program without a shell")
				}
			}
		}
		if open[1] >= open[0]+20 {
			t.Errorf("started %s: got %d open descriptors and %d after 20 failures, want them closed",
				name, open[0], open[1])
		}
	}
}

// BenchmarkStart measures a start with and without a re-executed child, which is needed here for another
// umask.
func BenchmarkStart(b *testing.B) {
	acc := accounttest.Own(b)
	acc.Shell, acc.Home = "/bin/sh", "/"
	for name, defs := range map[string]string{"plain": "", "preexec": "UMASK 077\n"} {
		db := withFiles(b, map[string]string{"etc/login.defs": defs})
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				runCommand(b, db, acc, "true")
			}
		})
	}
}
