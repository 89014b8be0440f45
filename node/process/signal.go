package process

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/node/account"
)

// signalNumbers are the signals by their names in RFC 4254 section 6.10.
var signalNumbers = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT,
	"ALRM": syscall.SIGALRM,
	"FPE":  syscall.SIGFPE,
	"HUP":  syscall.SIGHUP,
	"ILL":  syscall.SIGILL,
	"INT":  syscall.SIGINT,
	"KILL": syscall.SIGKILL,
	"PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT,
	"SEGV": syscall.SIGSEGV,
	"TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1,
	"USR2": syscall.SIGUSR2,
}

// ParseSignal returns the signal of a name that a client sent. ok is false for names that are not in RFC
// 4254.
func ParseSignal(name string) (sig syscall.Signal, ok bool) {
	sig, ok = signalNumbers[name]
	return sig, ok
}

// unignoreHangup makes sure that the programs that this process starts receive SIGHUP. A process that was
// started with the signal ignored, as by nohup(1), passes that on to every program (signal(7)): an ignored
// signal stays ignored across exec, a caught one does not.
func unignoreHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// Signal sends a signal to the program's process group with the rights of the account: processes in the group
// that have become another account, for example by sudo, do not receive it. It returns os.ErrProcessDone once
// the program is reaped.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return sendSignal(p.db, p.acc, p.cmd.Process.Pid, sig)
}

// kill is Signal with all rights of this process.
func (p *Process) kill(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// signalTimeout bounds the wait for the helper that sends a signal: the account may stop it.
const signalTimeout = 2 * time.Second

// sendSignal sends a signal to a process group with the account's rights. kill(2) checks the ids of the whole
// sending process, so a helper process is needed when this process is another account.
func sendSignal(db account.Database, acc account.Account, group int, sig syscall.Signal) error {
	if acc.UID == db.UID {
		return syscall.Kill(-group, sig)
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, selfPath)
	cmd.Args = []string{helperName, signalArg, strconv.Itoa(group), strconv.Itoa(int(sig))}
	cmd.Env, cmd.Dir, cmd.SysProcAttr = []string{"GOMAXPROCS=1"}, "/", credentials(db, acc)
	cmd.SysProcAttr.Setsid = true // the account must not get a terminal that the agent was started on
	if err := startIsolated(db, cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// runSignalHelper is the helper's side.
func runSignalHelper(group, sig string) int {
	pid, err1 := strconv.Atoi(group)
	number, err2 := strconv.Atoi(sig)
	if err1 != nil || err2 != nil || pid <= 1 || syscall.Kill(-pid, syscall.Signal(number)) != nil {
		return helperFailedStatus
	}
	return 0
}
