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
)

// documentVersion is the newest format of membership.json that this code reads, and the one that it writes.
const documentVersion = 1

// maxFileBytes bounds what is read back. The rules are the largest part.
const maxFileBytes = authrpc.MaxAnswerBytes

// document is membership.json. All of it is verified each time it is read.
type document struct {
	V       int          `json:"v"`
	Pin     identity.Pin `json:"pin"`
	SSHCert []byte       `json:"ssh_cert"`
	X509    [][]byte     `json:"x509"`
	Rules   rules.Set    `json:"rules"`
}

// answer returns the document in the form in which auth sent it, for verify.
func (d *document) answer() authrpc.JoinResponse {
	return authrpc.JoinResponse{SSHCert: d.SSHCert, X509: d.X509, Rules: d.Rules}
}

// readDocument returns the membership in dir, or nil when there is none yet.
func readDocument(dir string) (*document, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	b, err := readFile(dir, documentFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, damagedFault(dir, fmt.Errorf("%s: %w", documentFile, err))
	}
	if d.V != documentVersion {
		return nil, damagedFault(
			dir,
			fmt.Errorf("%s is of version %d, this program reads %d", documentFile, d.V, documentVersion),
		)
	}
	return &d, nil
}

func (d *document) save(dir string) error {
	d.V = documentVersion
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode membership: %w", err)
	}
	return writeFile(dir, documentFile, b)
}

// checkDir makes the directory, or refuses one that other accounts may enter.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return diskFault(dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return diskFault(dir, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fault.New(fault.Invalid, "member.LoadOrJoin",
			"other accounts may enter "+dir+", which holds keys",
			"run: chmod 700 "+dir,
		)
	}
	return nil
}

// readFile reads a file of the data directory, and refuses one that other accounts may read.
func readFile(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, diskFault(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Invalid, "member.LoadOrJoin", "other accounts may read "+path,
			"run: chmod 600 "+path)
	}
	if info.Size() > maxFileBytes {
		return nil, damagedFault(dir, fmt.Errorf("%s has %d bytes", name, info.Size()))
	}
	b, err := os.ReadFile(path)
	return b, diskFault(path, err)
}

func writeFile(dir, name string, data []byte) error {
	path := filepath.Join(dir, name)
	return diskFault(path, durable.WriteFile(path, data))
}

// reserveBytes is how much the disk must be able to take before a token is spent. Rules and certificates are
// smaller than this in most clusters.
const reserveBytes = 1 << 20

// checkSpace refuses to go on when auth's answer could not be saved.
func checkSpace(dir string) error {
	if err := writeFile(dir, "space", make([]byte, reserveBytes)); err != nil {
		return err
	}
	return diskFault(dir, os.Remove(filepath.Join(dir, "space")))
}

// diskFault turns an error of the file system into a fault. A missing file stays fs.ErrNotExist.
func diskFault(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case durable.IsDiskFull(err):
		return fault.Wrap(err, fault.Exhausted, "member",
			"the disk is full: "+path+" cannot be written",
			"free some space there; nothing was changed",
		)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.Wrap(err, fault.Denied, "member",
			"this account may not use "+path,
			"start as the account that owns it, or name another directory with --data",
		)
	case errors.Is(err, fs.ErrNotExist):
		return err
	}
	return fault.Wrap(err, fault.Internal, "member",
		path+" cannot be used",
		"check the disk and this machine's log",
	)
}

// damagedFault is for a membership that does not verify, because it was altered or belongs to other keys.
func damagedFault(dir string, err error) error {
	return fault.Wrap(err, fault.Invalid, "member.LoadOrJoin",
		"the membership in "+dir+" is damaged ("+err.Error()+")",
		"restore "+dir+" from a backup, or remove it and join again with a new token",
	)
}

// Exists reports whether dir holds a membership, so that LoadOrJoin needs no token.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, documentFile))
	return err == nil
}
