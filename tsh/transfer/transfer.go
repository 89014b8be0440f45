// Package transfer answers: how do files get from this machine to a node and back?
//
// It copies files and folders over SFTP for tsh scp and shows progress on a terminal. A file gets its final
// name only when it is complete: a copy that fails leaves the previous file as it was. File names that a node
// sends are not trusted: see checkName.
package transfer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// Options say how files are copied.
type Options struct {
	Recursive bool // copy folders with everything in them
	Preserve  bool // keep modes and modification times
}

// Copier copies between this machine and one node. It is not safe for concurrent use.
type Copier struct {
	remote   *sftp.Client
	opts     Options
	progress *Progress
	skipped  func(name string)
}

// New returns a Copier over an SFTP connection, which stays the caller's to close. skipped is called with the
// name of each device, pipe and socket that a recursive copy leaves out; the name is safe to print.
func New(remote *sftp.Client, opts Options, progress *Progress, skipped func(name string)) *Copier {
	return &Copier{remote: remote, opts: opts, progress: progress, skipped: skipped}
}

// tempName returns a name, random at its end, for the file base while it is being written. It uses at most
// 200 bytes of base, because file systems allow names of 255 bytes.
func tempName(base string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return "." + strings.ToValidUTF8(base[:min(len(base), 200)], "") + ".tsh-" + hex.EncodeToString(b[:])
}

// isSpecial reports whether a recursive copy leaves the file out: devices, pipes and sockets.
func isSpecial(m fs.FileMode) bool {
	return m&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeCharDevice|fs.ModeIrregular) != 0
}

// withExecuteBits returns the mode of a new file that is a copy of a file with the mode source: owner, group
// and others may execute it if they may read it and might execute the source.
func withExecuteBits(created, source fs.FileMode) fs.FileMode {
	const executeBits = 0o111
	mayRead := created >> 2 & executeBits // the read bits, in the places of the execute bits
	return created | source&executeBits&mayRead
}

// localFault returns the fault for err, an error of this machine's file system with the file name: Exhausted
// for a full disk, NotFound for a file or folder that does not exist, else Invalid. It returns nil if err is
// nil.
func localFault(name string, err error) error {
	if err == nil {
		return nil
	}
	cause := err
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return copyDiskFull.Wrap(err, "", fault.Args{"file": name})
	case errors.Is(err, fs.ErrNotExist):
		return copyFileUnknown.Wrap(err, "", fault.Args{"file": name})
	}
	return copyFileFailed.Wrap(err, "", fault.Args{"file": terminal.Clean(name), "why": cause.Error()})
}

// remoteFault returns the fault for err, an error of SFTP with the file name on the node: Exhausted for a
// full disk, NotFound for a file or folder that does not exist, Denied for missing permissions, Invalid for
// any other answer of the node, and Unavailable if the connection failed. If ctx has ended, it returns the
// error of ctx. SFTP has no status for a full disk, so it is recognised by the message that servers send.
func remoteFault(ctx context.Context, name string, err error) error {
	name = terminal.Clean(name)
	var status *sftp.StatusError
	switch text := strings.ToLower(err.Error()); {
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(text, "no space left"), strings.Contains(text, "quota exceeded"):
		return copyNodeDiskFull.Wrap(err, "", fault.Args{"file": name})
	case errors.Is(err, fs.ErrNotExist):
		return copyNodeFileUnknown.Wrap(err, "", fault.Args{"file": name})
	case errors.Is(err, fs.ErrPermission):
		return copyNodeFileDenied.Wrap(err, "", fault.Args{"file": name})
	case errors.As(err, &status):
		return copyNodeFileFailed.Wrap(err, "", fault.Args{
			"file": name,
			"why":  terminal.Clean(strings.TrimPrefix(status.Error(), "sftp: ")),
		})
	}
	return copyInterrupted.Wrap(err, "", fault.Args{"file": name, "why": terminal.Clean(err.Error())})
}
