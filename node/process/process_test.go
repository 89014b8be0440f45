package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/process"
)

func TestMain(m *testing.M) {
	if code, is := process.RunHelper(); is {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// run runs a program to its end.
func run(t *testing.T, acc account.Account, s process.Spec, stdin string) (process.Exit, string, string) {
	t.Helper()
	p, err := process.Start(account.Local(), acc, s)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	exit := p.Run(t.Context(), process.Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return exit, out.String(), errs.String()
}

func TestProgramsRunWithOnlyTheAccountsRights(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can; the next test is for everyone
	}
	acc := account.Account{
		Login:  "someone",
		UID:    54321,
		GID:    54322,
		Groups: []uint32{54322, 54323},
		Home:   "/",
		Shell:  "/bin/sh",
	}
	_, out, errs := run(
		t,
		acc,
		process.Spec{
			Kind:    process.Exec,
			Command: "id -u; id -g; id -G; grep ^Cap[EPI] /proc/self/status; grep ^Uid /proc/self/status",
		},
		"",
	)
	for _, want := range []string{"54321\n54322\n54322 54323\n", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "Uid:\t54321\t54321\t54321\t54321"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %s%s, want %q in it", out, errs, want)
		}
	}
	home := t.TempDir() // 0700 and root's: the account cannot enter its home
	acc.Home = home
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, out, errs := run(t, acc, process.Spec{Kind: process.Exec, Command: "pwd"}, ""); out != "/\n" {
		t.Errorf("got %q %q, want a start in /", out, errs)
	}
	if exit, _, _ := run(t, acc, process.Spec{Kind: process.SFTP}, ""); exit.Code != 0 {
		t.Errorf("got %+v, want the file server started as the account", exit)
	}
	checkFileServer(t, acc)
}

// checkFileServer looks at the file server while it runs: nothing of root's and nothing of the node's is left
// in it.
func checkFileServer(t *testing.T, acc account.Account) {
	t.Helper()
	if err := process.CloseDescriptorsOnExec(); err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(account.Local(), acc, process.Spec{Kind: process.SFTP, ID: "s1", User: "alice@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	stdin, more := io.Pipe()
	answer := make(chan []byte, 1)
	done := make(chan process.Exit, 1)
	go func() {
		done <- p.Run(t.Context(), process.Streams{In: stdin, Out: writer(func(b []byte) { answer <- bytes.Clone(b) }), Err: io.Discard})
	}()
	_, _ = more.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}) // SSH_FXP_INIT, version 3
	if b := <-answer; len(b) < 5 || b[4] != 2 {
		t.Errorf("got %v, want SSH_FXP_VERSION", b)
	}
	proc := "/proc/" + strconv.Itoa(p.PID())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t54321\t54321\t54321\t54321\n", "Gid:\t54322\t54322\t54322\t54322\n", "Groups:\t54322 54323", "CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("got %s, want %q in it", status, want)
		}
	}
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		to, _ := os.Readlink(proc + "/fd/" + e.Name())
		own := strings.HasPrefix(to, "anon_inode:") ||
			strings.HasPrefix(to, "/sys/fs/cgroup/") // Go's runtime opens these for itself
		if !own && !strings.HasPrefix(to, "pipe:") {
			t.Errorf("got descriptor %s to %s in the file server, want its pipes alone", e.Name(), to)
		}
	}
	environ, _ := os.ReadFile(proc + "/environ")
	for _, v := range strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00") {
		if name, _, _ := strings.Cut(v, "="); !slices.Contains(
			[]string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "MAIL", "SSH_CLIENT", "SSH_CONNECTION"},
			name,
		) &&
			!strings.HasPrefix(name, "THRESHOLD_") {
			t.Errorf("got %s in the file server's environment", v)
		}
	}
	more.Close()
	if exit := <-done; exit.Code != 0 {
		t.Errorf("got %+v, want a clean end", exit)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestDescriptorsOfTheAgentAreNotInherited(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inherited, err := unix.FcntlInt(
		f.Fd(),
		unix.F_DUPFD,
		100,
	) // as one that the node was started with: it goes on to programs
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	if err := process.CloseDescriptorsOnExec(); err != nil {
		t.Fatal(err)
	}
	_, out, _ := run(
		t,
		accounttest.Own(t),
		process.Spec{Kind: process.Exec, Command: "ls -l /proc/self/fd | grep -c passwd"},
		"",
	)
	if strings.TrimSpace(out) != "0" {
		t.Errorf("got %q descriptors of the node's in a session, want 0", out)
	}
}

// Kernel keys that this process, or another account's program, can use are none of a program's.
func TestProgramsShareNoSessionKeyring(t *testing.T) {
	if os.Geteuid() != 0 {
		return // one account has one keyring
	}
	runtime.LockOSThread() // whose keyring it is, until the test ends
	for how, defs := range map[string]string{"plain": "", "by way of a child": "UMASK 077\n"} {
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return // no keyrings here
		}
		_, err2 := unix.AddKey("user", "of-the-node", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		a := account.Local()
		a.Root = accounttest.WriteFiles(t, map[string]string{"etc/login.defs": defs})
		if got := runCommand(t, a, accounttest.Other(t), "cat /proc/keys"); strings.Contains(got, "of-the-node") {
			t.Errorf("%s: got %s, want nothing of the node's keyring in it", how, got)
		}
	}
}

// Scripts write to /dev/stderr and read /dev/stdin, which opens the pipe behind it once more.
func TestProgramsOpenTheirStreamsByName(t *testing.T) {
	_, out, errs := run(
		t,
		accounttest.Other(t),
		process.Spec{
			Kind:    process.Exec,
			Command: "cat /dev/stdin >/dev/stdout; echo apart | tee /dev/stderr",
		},
		"in\n",
	)
	if out != "in\napart\n" || errs != "apart\n" {
		t.Errorf("got %q and %q, want all three to be the account's", out, errs)
	}
}

func TestShellsThatRefuseLogin(t *testing.T) {
	acc := accounttest.Own(t)
	for _, shell := range []string{"/usr/sbin/nologin", "/bin/false"} {
		acc.Shell = shell
		if exit, _, _ := run(t, acc, process.Spec{Kind: process.Exec, Command: "echo in"}, ""); exit.Code != 1 {
			t.Errorf("%s: got %+v, want its own refusal, status 1", shell, exit)
		}
		_, err := process.Start(account.Local(), acc, process.Spec{Kind: process.SFTP})
		if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), shell) {
			t.Errorf("%s: got %v for sftp, want a refusal that names the shell", shell, err)
		}
	}
	acc.Shell = "/no/such/shell"
	if _, err := process.Start(account.Local(), acc, process.Spec{Kind: process.Shell}); !fault.Is(
		err,
		fault.Internal,
	) ||
		fault.Remedy(err) == "" ||
		!strings.Contains(fault.Message(err), "/no/such/shell") {
		t.Errorf("got %v, want the missing shell named with a remedy", err)
	}
}

// A shell that restricts people is no guard of their files once they are served by something else; sshd has
// the shell start that.
func TestFileTransferNeedsAnUnrestrictedShell(t *testing.T) {
	for shells, want := range map[string]map[string]bool{
		"# /etc/shells\n/bin/sh\n/bin/rbash\n/usr/sbin/nologin\n": {"/bin/sh": true, "/bin/rbash": false, "/usr/sbin/nologin": false, "/usr/bin/git-shell": false},
		"": {"/bin/sh": true, "/usr/bin/git-shell": true, "/bin/false": false}, // a machine that does without the list
	} {
		files := map[string]string{}
		if shells != "" {
			files["etc/shells"] = shells
		}
		a := account.Local()
		a.Root = accounttest.WriteFiles(t, files)
		for shell, want := range want {
			acc := accounttest.Own(t)
			acc.Shell = shell
			p, err := process.Start(a, acc, process.Spec{Kind: process.SFTP})
			if (err == nil) != want ||
				err != nil && (!fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), shell)) {
				t.Errorf("%s: got %v, want files served %v", shell, err, want)
			}
			if err == nil {
				p.Run(
					t.Context(),
					process.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard},
				)
			}
		}
	}
}

func TestContextEndStopsAProgramBlockedOnOutput(t *testing.T) {
	p, err := process.Start(account.Local(), accounttest.Own(t), process.Spec{Kind: process.Exec, Command: "cat /dev/zero"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe() // nobody reads on
	done := make(chan process.Exit, 1)
	go func() { done <- p.Run(ctx, process.Streams{In: strings.NewReader(""), Out: w, Err: io.Discard}) }()
	if _, err := io.ReadFull(r, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	cancel()
	r.Close() // as a connection that is gone does
	if exit := <-done; exit.Signal == "" {
		t.Errorf("got %+v, want an end by signal", exit)
	}
}

func TestSignalNames(t *testing.T) {
	for name, want := range map[string]bool{"TERM": true, "INT": true, "USR1": true, "SIGTERM": false, "STOP": false, "": false, "9": false} {
		if _, got := process.ParseSignal(name); got != want {
			t.Errorf("%q: got known %v, want %v", name, got, want)
		}
	}
}

func TestSignalsAreSentWithTheAccountsRights(t *testing.T) {
	acc := accounttest.Other(t)
	p, err := process.Start(account.Local(), acc, process.Spec{Kind: process.Exec, Command: "exec sleep 300"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan process.Exit, 1)
	go func() {
		done <- p.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
	}()
	if os.Geteuid() == 0 {
		p.SetAccount(
			account.Account{UID: acc.UID + 1, GID: acc.GID},
		) // as if the program had become another's
		if err := p.Signal(syscall.SIGUSR1); err == nil {
			t.Error("got a signal through to somebody else's program")
		}
		p.SetAccount(acc)
	}
	if err := p.Signal(syscall.SIGUSR2); err != nil {
		t.Error(err)
	}
	if exit := <-done; exit.Signal != "USR2" {
		t.Errorf("got %+v, want an end by the account's own signal", exit)
	}
	if err := p.Signal(syscall.SIGUSR2); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("got %v, want no signal to what has ended", err)
	}
}

func TestRunHelperIgnoresOrdinaryPrograms(t *testing.T) {
	if _, is := process.RunHelper(); is {
		t.Error("got a test binary taken for a session's child")
	}
}

// An agent that somebody started by nohup(1) must not hand its deafness on.
func TestProgramsReceiveHangupWhenTheAgentIgnoresIt(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	exit, out, _ := run(
		t,
		accounttest.Own(t),
		process.Spec{Kind: process.Exec, Command: "kill -HUP $$; echo deaf"},
		"",
	)
	if exit.Signal != "HUP" || out != "" {
		t.Errorf("got %+v and %q, want an end by HUP", exit, out)
	}
}
