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

// unignoreHangup makes sure that programs which this process starts can receive SIGHUP. If this process was
// started with the signal ignored, as by nohup(1), its programs would ignore it too: an ignored signal stays
// ignored across exec. A caught signal does not (signal(7)), so unignoreHangup catches it.
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

// kill sends a signal to the program's process group with all rights of this process. Unlike Signal it also
// reaches processes of the group that have become another account.
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

// sendSignal sends a signal to a process group with the account's rights. kill(2) checks the ids of the
// sending process, so a helper that runs as the account sends it, unless this process is that account itself.
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

// runSignalHelper is the work of the helper that sendSignal starts. Its arguments are numbers in decimal. It
// returns the status to exit with.
func runSignalHelper(group, sig string) int {
	groupID, err1 := strconv.Atoi(group)
	number, err2 := strconv.Atoi(sig)
	if err1 != nil || err2 != nil || groupID <= 1 { // kill(-1) would reach every process
		return helperFailedStatus
	}
	if syscall.Kill(-groupID, syscall.Signal(number)) != nil {
		return helperFailedStatus
	}
	return 0
}
