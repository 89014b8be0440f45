package session

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// signalNumbers by their names in RFC 4254 section 6.10.
var signalNumbers = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

// ParseSignal returns the signal of the name that a client sent.
func ParseSignal(name string) (syscall.Signal, bool) {
	s, ok := signalNumbers[name]
	return s, ok
}

// unignoreHangup makes sure that programs can be hung up on. A process that was itself started to ignore
// that, as by nohup(1), hands so much on to all it starts (signal(7)): what is ignored stays so in a new
// program, what is caught does not.
func unignoreHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// Signal sends a signal to the program's process group, as the account: what is in it and has become somebody
// else, by way of sudo, is not the account's to end.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return p.accounts.sendSignal(p.acc, p.cmd.Process.Pid, sig)
}

// kill is Signal with all the rights there are.
func (p *Process) kill(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// signalTimeout bounds the wait for the child that sends a signal: its account may stop it.
const signalTimeout = 2 * time.Second

// sendSignal sends a signal to a process group with the account's rights. The kernel goes by the ids of a
// whole process there, so it takes one.
func (a Database) sendSignal(acc Account, group int, sig syscall.Signal) error {
	if acc.UID == a.UID {
		return syscall.Kill(-group, sig)
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, selfPath)
	cmd.Args = []string{helperName, signalArg, strconv.Itoa(group), strconv.Itoa(int(sig))}
	cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"GOMAXPROCS=1"}, "/", a.credentials(acc)
	cmd.SysProcAttr.Setsid = true // the terminal that the node may have been started at is none of the account's
	if err := a.startIsolated(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// runSignalHelper is the child's side.
func runSignalHelper(group, sig string) int {
	pid, err1 := strconv.Atoi(group)
	no, err2 := strconv.Atoi(sig)
	if err1 != nil || err2 != nil || pid <= 1 || syscall.Kill(-pid, syscall.Signal(no)) != nil {
		return helperFailedStatus
	}
	return 0
}
