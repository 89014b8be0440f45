package server

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/internal/fault"
)

// rootKeyFlags are the flags that say where the root key of a new cluster goes.
type rootKeyFlags struct {
	out            string
	recipients     []string
	passphraseFile string
}

func (r *rootKeyFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&r.out, "root-key-out", "",
		"with --bootstrap: write the cluster's root key to this new `file`, encrypted; no server keeps it")
	flags.Func("root-key-recipient",
		"encrypt the root key for this `recipient` of age (age1…); may be repeated", func(s string) error {
			r.recipients = append(r.recipients, s)
			return nil
		})
	flags.StringVar(&r.passphraseFile, "root-key-passphrase-file", "",
		"encrypt the root key with the passphrase in this `file`; without it and a recipient, you are asked")
}

// file returns what the flags say. Without a recipient and a file with a passphrase, it asks for a passphrase
// at the terminal, twice; messages go to w.
func (r *rootKeyFlags) file(w io.Writer) (auth.RootKeyFile, error) {
	out := auth.RootKeyFile{Path: r.out, Recipients: r.recipients}
	var err error
	switch {
	case r.out == "" && (len(r.recipients) > 0 || r.passphraseFile != ""):
		return out, rootKeyOutMissing.New("threshold start")
	case r.out == "":
		return out, nil
	case r.passphraseFile != "":
		if out.Passphrase, err = readFile(r.passphraseFile); err != nil {
			return out, err
		}
		out.Passphrase = bytes.TrimRight(out.Passphrase, "\r\n")
	case len(r.recipients) == 0:
		out.Passphrase, err = newPassphrase(w)
	}
	return out, err
}

// newPassphrase asks for a new passphrase at the terminal, twice.
func newPassphrase(w io.Writer) ([]byte, error) {
	first, err := askPassphrase(w, "Passphrase for the root key: ")
	if err != nil {
		return nil, err
	}
	second, err := askPassphrase(w, "The same once more: ")
	if err != nil {
		return nil, err
	}
	defer clear(second)
	if !bytes.Equal(first, second) {
		return nil, passphrasesDiffer.New("threshold start")
	}
	return first, nil
}

// askPassphrase reads a line from the terminal without showing it. Without a terminal it is fault Invalid.
func askPassphrase(w io.Writer, prompt string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, passphraseUnknown.New("threshold")
	}
	fmt.Fprint(w, prompt)
	line, err := term.ReadPassword(fd)
	fmt.Fprintln(w)
	if errors.Is(err, io.EOF) {
		err = nil // an empty line, at the end of the input
	}
	return line, passphraseUnread.Wrap(err, "threshold", fault.Args{})
}
