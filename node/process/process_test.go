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

// command is the spec of a command.
func command(line string) process.Spec { return process.Spec{Kind: process.Exec, Command: line} }

// start starts a program as this machine's account files say.
func start(t testing.TB, acc account.Account, s process.Spec) *process.Process {
	t.Helper()
	p, err := process.Start(account.Local(), acc, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// run runs a program to its end.
func run(t *testing.T, acc account.Account, s process.Spec, stdin string) (process.Exit, string, string) {
	t.Helper()
	p := start(t, acc, s)
	var out, errs bytes.Buffer
	exit := p.Run(t.Context(), process.Streams{In: strings.NewReader(stdin), Out: &out, Err: &errs})
	return exit, out.String(), errs.String()
}

// runCommand runs a command as the files of db say, and returns what it printed.
func runCommand(t testing.TB, db account.Database, acc account.Account, line string) string {
	t.Helper()
	p, err := process.Start(db, acc, command(line))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p.Run(t.Context(), process.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	return out.String()
}

// withFiles is the database of this machine, but with these files.
func withFiles(t testing.TB, files map[string]string) account.Database {
	t.Helper()
	db := account.Local()
	db.Root = accounttest.WriteFiles(t, files)
	return db
}

func wantAll(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("got %s, want %q in it", got, part)
		}
	}
}

// A program has the ids and groups of the account and no capabilities, and the file server cannot read what
// the account may not. A home that the account may not enter does not stop it.
func TestProgramsRunWithOnlyTheAccountsRights(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can become another account
	}
	acc := accounttest.Other(t)
	acc.Groups = append(acc.Groups, 54323)
	script := "id -u; id -g; id -G; grep -e ^Cap[EPI] -e ^Uid /proc/self/status"
	_, out, errs := run(t, acc, command(script), "")
	wantAll(t, out+errs,
		"54321\n54322\n54322 54323\n",
		"CapEff:\t0000000000000000",
		"CapPrm:\t0000000000000000",
		"Uid:\t54321\t54321\t54321\t54321")
	acc.Home = t.TempDir() // belongs to root: the account cannot enter it
	if err := os.Chmod(acc.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, out, errs := run(t, acc, command("pwd"), ""); out != "/\n" {
		t.Errorf("got %q %q, want a start in /", out, errs)
	}
	if exit, _, _ := run(t, acc, process.Spec{Kind: process.SFTP}, ""); exit.Code != 0 {
		t.Errorf("got %+v, want the file server started as the account", exit)
	}
	checkFileServer(t, acc)
}

// checkFileServer examines a file server while it runs: it has nothing of root's and nothing of the agent's.
func checkFileServer(t *testing.T, acc account.Account) {
	t.Helper()
	if err := process.CloseDescriptorsOnExec(); err != nil {
		t.Fatal(err)
	}
	program := start(t, acc, process.Spec{Kind: process.SFTP, ID: "s1", User: "alice@example.com"})
	in, stdin := io.Pipe()
	answer := make(chan []byte, 1)
	out := writerFunc(func(b []byte) { answer <- bytes.Clone(b) })
	done := make(chan process.Exit, 1)
	go func() { done <- program.Run(t.Context(), process.Streams{In: in, Out: out, Err: io.Discard}) }()
	_, _ = stdin.Write([]byte{0, 0, 0, 5, 1, 0, 0, 0, 3}) // SSH_FXP_INIT, version 3
	if b := <-answer; len(b) < 5 || b[4] != 2 {
		t.Errorf("got %v, want SSH_FXP_VERSION", b)
	}
	proc := "/proc/" + strconv.Itoa(program.PID())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, string(status),
		"Uid:\t54321\t54321\t54321\t54321\n",
		"Gid:\t54322\t54322\t54322\t54322\n",
		"Groups:\t54322 54323",
		"CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n",
		"CapInh:\t0000000000000000\n",
		"CapAmb:\t0000000000000000\n")
	checkDescriptors(t, proc)
	checkEnvironment(t, proc)
	stdin.Close()
	if exit := <-done; exit.Code != 0 {
		t.Errorf("got %+v, want a clean end", exit)
	}
}

// checkDescriptors checks that a file server has no descriptors but its pipes, and what Go's runtime opens
// for itself.
func checkDescriptors(t *testing.T, proc string) {
	t.Helper()
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		to, _ := os.Readlink(proc + "/fd/" + e.Name())
		ofRuntime := strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/sys/fs/cgroup/")
		if !ofRuntime && !strings.HasPrefix(to, "pipe:") {
			t.Errorf("got descriptor %s to %s in the file server, want only its pipes", e.Name(), to)
		}
	}
}

func checkEnvironment(t *testing.T, proc string) {
	t.Helper()
	known := []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "MAIL", "SSH_CLIENT", "SSH_CONNECTION"}
	environ, _ := os.ReadFile(proc + "/environ")
	for _, v := range strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00") {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains(known, name) && !strings.HasPrefix(name, "THRESHOLD_") {
			t.Errorf("got %s in the file server's environment", v)
		}
	}
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) { w(b); return len(b), nil }

// A descriptor that the agent was started with does not reach a session.
func TestDescriptorsOfTheAgentAreNotInherited(t *testing.T) {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Like a descriptor that the agent was started with, this one stays open on exec.
	inherited, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	if err := process.CloseDescriptorsOnExec(); err != nil {
		t.Fatal(err)
	}
	_, out, _ := run(t, accounttest.Own(t), command("ls -l /proc/self/fd | grep -c passwd"), "")
	if strings.TrimSpace(out) != "0" {
		t.Errorf("got %q descriptors of the agent in a session, want 0", out)
	}
}

// A program must not see kernel keys that this process, or a program of another account, can use.
func TestProgramsShareNoSessionKeyring(t *testing.T) {
	if os.Geteuid() != 0 {
		return // one account has one keyring
	}
	t.Parallel()
	runtime.LockOSThread() // the keyring belongs to the thread; it ends with the test
	for name, defs := range map[string]string{"directly": "", "by way of a child": "UMASK 077\n"} {
		_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			return // no keyrings here
		}
		_, err2 := unix.AddKey("user", "of-the-node", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		db := withFiles(t, map[string]string{"etc/login.defs": defs})
		got := runCommand(t, db, accounttest.Other(t), "cat /proc/keys")
		if strings.Contains(got, "of-the-node") {
			t.Errorf("started %s: got %s, want no key of the agent in it", name, got)
		}
	}
}

// Scripts write to /dev/stderr and read /dev/stdin, which opens the pipe behind it again.
func TestProgramsOpenTheirStreamsByName(t *testing.T) {
	t.Parallel()
	script := "cat /dev/stdin >/dev/stdout; echo separate | tee /dev/stderr"
	_, out, errs := run(t, accounttest.Other(t), command(script), "in\n")
	if out != "in\nseparate\n" || errs != "separate\n" {
		t.Errorf("got %q and %q, want all three streams to belong to the account", out, errs)
	}
}

// A shell such as nologin refuses by itself, and file transfer is refused for it. A missing shell is named
// with a remedy.
func TestShellsThatRefuseLogin(t *testing.T) {
	t.Parallel()
	acc := accounttest.Own(t)
	for _, shell := range []string{"/usr/sbin/nologin", "/bin/false"} {
		acc.Shell = shell
		if exit, _, _ := run(t, acc, command("echo in"), ""); exit.Code != 1 {
			t.Errorf("%s: got %+v, want the shell's own refusal, status 1", shell, exit)
		}
		_, err := process.Start(account.Local(), acc, process.Spec{Kind: process.SFTP})
		if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), shell) {
			t.Errorf("%s: got %v for sftp, want a refusal that names the shell", shell, err)
		}
	}
	acc.Shell = "/no/such/shell"
	_, err := process.Start(account.Local(), acc, process.Spec{Kind: process.Shell})
	if !fault.Is(err, fault.Internal) || fault.Remedy(err) == "" ||
		!strings.Contains(fault.Message(err), "/no/such/shell") {
		t.Errorf("got %v, want the missing shell named with a remedy", err)
	}
}

// A restricting shell does not restrict our file server, so such accounts get none. With sshd, the shell
// starts the file server and can refuse.
func TestFileTransferNeedsAnUnrestrictedShell(t *testing.T) {
	t.Parallel()
	listed := map[string]string{"etc/shells": "# /etc/shells\n/bin/sh\n/bin/rbash\n/usr/sbin/nologin\n"}
	for _, tt := range []struct {
		files map[string]string
		shell string
		want  bool
	}{
		{listed, "/bin/sh", true},
		{listed, "/bin/rbash", false},
		{listed, "/usr/sbin/nologin", false},
		{listed, "/usr/bin/git-shell", false},
		{nil, "/bin/sh", true}, // a machine without the file
		{nil, "/usr/bin/git-shell", true},
		{nil, "/bin/false", false},
	} {
		acc := accounttest.Own(t)
		acc.Shell = tt.shell
		program, err := process.Start(withFiles(t, tt.files), acc, process.Spec{Kind: process.SFTP})
		if err == nil {
			streams := process.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
			program.Run(t.Context(), streams)
		}
		refused := fault.Is(err, fault.Denied) && strings.Contains(fault.Message(err), tt.shell)
		if (err == nil) != tt.want || err != nil && !refused {
			t.Errorf("%s, listed %v: got %v, want files served %v", tt.shell, tt.files != nil, err, tt.want)
		}
	}
}

func TestContextEndStopsAProgramBlockedOnOutput(t *testing.T) {
	t.Parallel()
	p := start(t, accounttest.Own(t), command("cat /dev/zero"))
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan process.Exit, 1)
	go func() { done <- p.Run(ctx, process.Streams{In: strings.NewReader(""), Out: w, Err: io.Discard}) }()
	if _, err := io.ReadFull(r, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	cancel() // nobody reads on
	r.Close()
	if exit := <-done; exit.Signal == "" {
		t.Errorf("got %+v, want an end by a signal", exit)
	}
}

func TestSignalNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"TERM": true, "INT": true, "USR1": true, "SIGTERM": false, "STOP": false, "": false, "9": false,
	} {
		if _, got := process.ParseSignal(name); got != want {
			t.Errorf("%q: got known %v, want %v", name, got, want)
		}
	}
}

// The account can send signals only to its own programs: a program that has become another account does not
// receive them.
func TestSignalsAreSentWithTheAccountsRights(t *testing.T) {
	t.Parallel()
	acc := accounttest.Other(t)
	program := start(t, acc, command("exec sleep 300"))
	streams := process.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
	done := make(chan process.Exit, 1)
	go func() { done <- program.Run(t.Context(), streams) }()
	if os.Geteuid() == 0 {
		// As if the program had become another account.
		program.SetAccount(account.Account{UID: acc.UID + 1, GID: acc.GID})
		if err := program.Signal(syscall.SIGUSR1); err == nil {
			t.Error("got a signal sent to a program of another account")
		}
		program.SetAccount(acc)
	}
	if err := program.Signal(syscall.SIGUSR2); err != nil {
		t.Error(err)
	}
	if exit := <-done; exit.Signal != "USR2" {
		t.Errorf("got %+v, want an end by the account's own signal", exit)
	}
	if err := program.Signal(syscall.SIGUSR2); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("got %v, want no signal to a program that has ended", err)
	}
}

func TestRunHelperIgnoresOrdinaryPrograms(t *testing.T) {
	t.Parallel()
	if _, is := process.RunHelper(); is {
		t.Error("got this test binary taken for a helper")
	}
}

// An agent that was started by nohup(1) ignores SIGHUP. Its programs must not. The test does not reset the
// signal: after Ignore and Notify, signal.Reset would leave it ignored without signal.Ignored saying so, and
// later tests would wait for programs that ignore the hangup.
func TestProgramsReceiveHangupWhenTheAgentIgnoresIt(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	exit, out, _ := run(t, accounttest.Own(t), command("kill -HUP $$; echo ignored"), "")
	if exit.Signal != "HUP" || out != "" {
		t.Errorf("got %+v and %q, want an end by HUP", exit, out)
	}
}
