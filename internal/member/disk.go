package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

// membershipVersion is the newest format of membership.json that this code reads, and the one that it writes.
const membershipVersion = 1

// maxFileBytes bounds what is read back. The rules are the largest part.
const maxFileBytes = authrpc.MaxAnswerBytes

// savedMembership is the content of membership.json: what auth sent at the last join or renewal, and the pin
// under which it is verified. Nothing in it is trusted: verifyMembership verifies it each time it is read. A
// field that this program does not know is ignored, unless it is called critical.
type savedMembership struct {
	V        int           `json:"v"` // the format: membershipVersion
	Critical wire.Critical `json:"critical,omitempty"`
	Pin      identity.Pin  `json:"pin"`      // of the cluster root, from the join token
	SSHCert  []byte        `json:"ssh_cert"` // the host certificate, SSH wire format
	X509     [][]byte      `json:"x509"`     // the service certificate: DER, leaf first, root last
	Rules    rules.Set     `json:"rules"`
}

// membershipFields are the fields of membership.json that this program knows.
var membershipFields = []string{"pin", "ssh_cert", "x509", "rules"}

// joinResponse returns the saved membership in the form that verifyMembership takes.
func (m *savedMembership) joinResponse() authrpc.JoinResponse {
	return authrpc.JoinResponse{SSHCert: m.SSHCert, X509: m.X509, Rules: m.Rules}
}

// readMembership reads membership.json in the data directory dir. It returns nil and no error if there is no
// such file, which means that the machine has not joined yet. It makes dir if that is missing. It does not
// verify what it returns.
//
// The error is a fault: for a directory or file that other accounts may read, a disk that cannot be read, a
// file that is not valid JSON, or a file that a newer program wrote.
func readMembership(dir string) (*savedMembership, error) {
	if err := ensurePrivateDir(dir); err != nil {
		return nil, err
	}
	b, err := readFile(dir, membershipFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseMembership(dir, b)
}

// parseMembership decodes membership.json, which was read in dir. Its errors are those of readMembership.
func parseMembership(dir string, b []byte) (*savedMembership, error) {
	var header struct { // a newer program may have changed everything else
		V        int           `json:"v"`
		Critical wire.Critical `json:"critical"`
	}
	err := json.Unmarshal(b, &header)
	if err == nil {
		err = wire.Check("it", header.V, membershipVersion, header.Critical, membershipFields...)
		if err != nil {
			// Nothing is damaged: somebody went back to an older release.
			return nil, membershipTooNew.Wrap(err, "member.LoadOrJoin", fault.Args{
				"folder": dir,
				"why":    fault.Message(err),
			})
		}
	}
	var saved savedMembership
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil {
		return nil, damagedFault(dir, fmt.Errorf("%s: %w", membershipFile, err))
	}
	return &saved, nil
}

// save writes the membership to membership.json in dir, as a whole or not at all.
func (m *savedMembership) save(dir string) error {
	m.V = membershipVersion
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode membership: %w", err)
	}
	return writeFile(dir, membershipFile, b)
}

// ensurePrivateDir makes dir with mode 0700 if it does not exist. It refuses an existing directory that other
// accounts may enter, because they could read the private keys in it.
func ensurePrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return diskFault(dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return diskFault(dir, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return memberFolderOpen.New("member.LoadOrJoin", fault.Args{"folder": dir})
	}
	return nil
}

// readFile reads a file of the data directory. It refuses one that other accounts may read, and one of more
// than maxFileBytes. The error is a fault, or fs.ErrNotExist if there is no such file.
func readFile(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, diskFault(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, memberFileOpen.New("member.LoadOrJoin", fault.Args{"file": path})
	}
	if info.Size() > maxFileBytes {
		return nil, damagedFault(dir, fmt.Errorf("%s has %d bytes", name, info.Size()))
	}
	b, err := os.ReadFile(path)
	return b, diskFault(path, err)
}

// writeFile writes a file of the data directory, as a whole or not at all. The error is a fault.
func writeFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	return diskFault(path, durable.WriteFile(path, data))
}

// reserveBytes is how much free space checkDiskSpace demands. The rules and certificates of most clusters are
// smaller.
const reserveBytes = 1 << 20

// checkDiskSpace returns a fault if the disk cannot take reserveBytes more. A join checks this before it
// sends the token: auth accepts a token once, so an answer that could not be saved would be lost.
func checkDiskSpace(dir string) error {
	if err := writeFile(dir, "space", make([]byte, reserveBytes)); err != nil {
		return err
	}
	return diskFault(dir, os.Remove(filepath.Join(dir, "space")))
}

// diskFault turns an error of the file system at path into a fault that says what to do. It returns nil for
// nil, and the error of a missing file as it is.
func diskFault(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case durable.IsDiskFull(err):
		return memberDiskFull.Wrap(err, "member", fault.Args{"file": path})
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return memberFileDenied.Wrap(err, "member", fault.Args{"file": path})
	case errors.Is(err, fs.ErrNotExist):
		return err
	}
	return memberFileUnusable.Wrap(err, "member", fault.Args{"file": path})
}

// damagedFault is for a membership that cannot be read or verified: it was altered, or belongs to other keys.
func damagedFault(dir string, err error) error {
	return membershipDamaged.Wrap(err, "member.LoadOrJoin", fault.Args{"folder": dir, "why": err.Error()})
}

// Exists reports whether dir holds a membership, so that LoadOrJoin needs no token.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, membershipFile))
	return err == nil
}
