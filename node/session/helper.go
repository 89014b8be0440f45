package session

import (
	"os"

	"github.com/threshold-access/threshold/node/sftp"
)

// What a node runs as another account in place of a shell is this same program, started anew with these
// arguments.
const (
	selfPath   = "/proc/self/exe"
	helperName = "threshold-session"
	sftpArg    = "__threshold_session_sftp_v1"
	preExecArg = "__threshold_session_enter_v1"

	socketsArg = "__threshold_session_sockets_v1"
	signalArg  = "__threshold_session_signal_v1"
)

// helperFailedStatus is the exit status of a child that could not do its work.
const helperFailedStatus = 126

// RunHelper reports whether this process is such a child, and after having done its work, with which code it
// should end. Every program that embeds a node calls it first thing in main.
func RunHelper() (code int, is bool) {
	switch {
	case len(os.Args) < 2 || os.Args[0] != helperName:
		return 0, false
	case os.Args[1] == sftpArg && len(os.Args) == 2:
		return serveSFTP(), true
	case os.Args[1] == socketsArg && len(os.Args) == 2:
		return serveSockets(), true
	case os.Args[1] == signalArg && len(os.Args) == 4:
		return runSignalHelper(os.Args[2], os.Args[3]), true
	case os.Args[1] == preExecArg && len(os.Args) > 3:
		return runPreExec(os.Args[2:]), true
	}
	return 0, false
}

// serveSFTP serves files as the account this process runs as, on stdin and stdout. The kernel guards every
// access; there is no root to come back to.
func serveSFTP() int {
	chdirHome()
	if sftp.Serve(os.Stdin, os.Stdout) != nil {
		return 1
	}
	return 0
}
