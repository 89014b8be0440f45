package session

import (
	"io"
	"os"

	"github.com/pkg/sftp"
)

// What a node runs as another account in place of a shell is this same program, started anew with these arguments.
const (
	selfPath   = "/proc/self/exe"
	helperName = "threshold-session"
	sftpGuard  = "__threshold_session_sftp_v1"
)

// Reexecuted reports whether this process is such a child, and after having done its work, with which code it should end. Every
// program that embeds a node calls it first thing in main.
func Reexecuted() (code int, is bool) {
	if len(os.Args) != 2 || os.Args[0] != helperName || os.Args[1] != sftpGuard {
		return 0, false
	}
	return serveSFTP(), true
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// serveSFTP serves files as the account this process runs as, on stdin and stdout. The kernel guards every access; there is no root
// to come back to.
func serveSFTP() int {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	s, err := sftp.NewServer(stdio{os.Stdin, os.Stdout}, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return 1
	}
	if err := s.Serve(); err != nil && err != io.EOF {
		return 1
	}
	return 0
}
