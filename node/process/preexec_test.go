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

// runCommand runs a command by a machine's own files, and returns what it printed.
func runCommand(t *testing.T, a account.Database, acc account.Account, command string) string {
	t.Helper()
	p, err := process.Start(a, acc, process.Spec{Kind: process.Exec, Command: command})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	return out.String()
}

// findAccount is an account of the machine, with a shell and a home that are there.
func findAccount(t *testing.T, a account.Database, login identity.Login) account.Account {
	t.Helper()
	acc, err := a.Find(login)
	if err != nil {
		t.Fatal(err)
	}
	acc.Shell, acc.Home = "/bin/sh", "/"
	return acc
}

func mergeFiles(files ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range files {
		maps.Copy(out, m)
	}
	return out
}

func TestProgramsStartWithLimitsConf(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root sets limits for others
	}
	files := map[string]string{
		"etc/passwd":               accounttest.Passwd,
		"etc/group":                accounttest.Group,
		"etc/security/limits.conf": limitsConf,
	}
	extra := map[string]string{
		"etc/security/limits.d/10-a.conf": "alice hard nofile 650\n",
		"etc/security/limits.d/20-b.conf": "alice hard nofile 660\nnoshell -\n",
		"etc/security/limits.d/x":         "alice hard nofile 1\n",
	}
	const command = `ulimit -Sn; ulimit -Hn; ulimit -St; ulimit -Sf`
	for _, tt := range []struct {
		name  string
		login identity.Login
		files map[string]string
		want  string
	}{
		{"its own name before its group before everyone", "alice", files, "300\n600\n120\n8\n"},
		{"the last of equal ones", "nohome", files, "300\n700\n120\nunlimited\n"},
		{"root only by name", "root", files, "800\n800\nunlimited\nunlimited\n"},
		{"more files, in order", "alice", mergeFiles(files, extra), "300\n660\n120\n8\n"},
		{"an account that is freed", "noshell", mergeFiles(files, extra), ""},
	} {
		a := account.Database{Root: accounttest.WriteFiles(t, tt.files)}
		acc := findAccount(t, a, tt.login)
		got := runCommand(t, a, acc, command)
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
		return // as above
	}
	acc := accounttest.Other(t)
	for _, files := range []string{"unlimited", "2000000000"} { // more than any kernel lets root have
		a := account.Database{
			Root: accounttest.WriteFiles(
				t,
				map[string]string{"etc/security/limits.conf": "* - nofile " + files + "\n* hard cpu 3\n"},
			),
		}
		got := runCommand(t, a, acc, "ulimit -n; ulimit -Hn; ulimit -Ht")
		want := runCommand(t, account.Database{Root: t.TempDir()}, acc, "ulimit -Hn; ulimit -Hn; echo 180")
		if got != want {
			t.Errorf("%s: got %q, want %q", files, got, want)
		}
	}
}

func TestLimitsHoldBeforeTheProgramRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		return // as above
	}
	a := account.Database{Root: accounttest.WriteFiles(t, map[string]string{"etc/passwd": accounttest.Passwd, "etc/group": accounttest.Group,
		"etc/security/limits.conf": "* - as 400000\n* - data 20000\n* - nproc 200\n* - nofile 64\n* - memlock 64\n", "etc/login.defs": "# a comment\nUMASK\t\t027\nUMASKS 1\n"})}
	acc := findAccount(t, a, "alice")
	got := runCommand(
		t,
		a,
		acc,
		"ulimit -Sv; ulimit -Hn; umask; id -u; id -g; id -G; grep -h -e ^Cap[EPI] -e ^Uid -e ^Gid /proc/self/status; pwd; tr '\\0' ' ' </proc/$$/cmdline; ls /proc/self/fd | wc -l",
	)
	for _, want := range []string{"400000\n64\n0027\n1000\n1000\n1000 27 998\n", "Uid:\t1000\t1000\t1000\t1000\n", "Gid:\t1000\t1000\t1000\t1000\n", "CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n", "\n/\nsh -c ulimit"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s, want %q in it", got, want)
		}
	}
	acc.Home = "/root/no/such"
	if got := runCommand(t, a, acc, "pwd"); got != "/\n" {
		t.Errorf("got %q, want a start in / without a home", got)
	}
	acc.Shell = "/no/such/shell"
	if _, err := process.Start(a, acc, process.Spec{Kind: process.Shell}); !fault.Is(err, fault.Internal) ||
		!strings.Contains(fault.Message(err), "/no/such/shell could not be started as alice: no such file") {
		t.Errorf("got %v, want the missing shell named", err)
	}
	acc.Shell = "/bin/sh"
	files, err := process.Start(a, acc, process.Spec{Kind: process.SFTP})
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	if exit := files.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &errs}); exit.Code != 0 {
		t.Errorf("got %+v %s, want the file server to run under limits too", exit, errs.String())
	}
}

func TestUmaskComesFromLoginDefs(t *testing.T) {
	acc := accounttest.Own(t)
	for text, want := range map[string]string{"": "0022\n", "UMASK 077\n": "0077\n", "UMASK 999\nUMASK 002\n": "0002\n", "# UMASK 077\nUMASK\n": "0022\n"} {
		a := account.Local()
		a.Root = accounttest.WriteFiles(t, map[string]string{"etc/login.defs": text})
		if got := runCommand(t, a, acc, "umask"); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestFailedStartsLeakNoDescriptors(t *testing.T) {
	acc := accounttest.Own(t)
	acc.Shell = "/no/such/shell"
	for how, defs := range map[string]string{"plain": "", "by way of a child": "UMASK 077\n"} {
		a := account.Local()
		a.Root = accounttest.WriteFiles(t, map[string]string{"etc/login.defs": defs})
		var open []int
		for range 2 {
			list, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, len(list))
			for range 20 {
				if _, err := process.Start(a, acc, process.Spec{Kind: process.Shell}); err == nil {
					t.Fatal("got a program without a shell")
				}
			}
		}
		if open[1] >= open[0]+20 {
			t.Errorf(
				"%s: got %d open descriptors and %d after 20 failures, want them closed",
				how,
				open[0],
				open[1],
			)
		}
	}
}

// BenchmarkStart tells what it costs when a program has to be started by way of a child of ours: here, for
// another umask.
func BenchmarkStart(b *testing.B) {
	acc := accounttest.Own(b)
	acc.Shell, acc.Home = "/bin/sh", "/"
	for name, defs := range map[string]string{"plain": "", "entered": "UMASK 077\n"} {
		a := account.Local()
		a.Root = accounttest.WriteFiles(b, map[string]string{"etc/login.defs": defs})
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p, err := process.Start(a, acc, process.Spec{Kind: process.Exec, Command: "true"})
				if err != nil {
					b.Fatal(err)
				}
				p.Run(
					b.Context(),
					process.Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}},
				)
			}
		})
	}
}
