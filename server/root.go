package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/threshold-access/threshold/auth/authorities"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/fault"
)

const rootUsage = `threshold root uses the root key of a cluster. Run it where you keep the key, and not on
a server.

  threshold root sign --root-key FILE [--out FILE] REQUEST    sign what "tsh root request" asks for

`

// rootSign is one call of "threshold root sign".
type rootSign struct {
	stdin          *os.File
	stdout, stderr io.Writer

	key, identity, passphraseFile, out string
	yes                                bool
}

// runRoot runs "threshold root" with the words after it, and returns the exit status, as Main does.
func runRoot(args []string, stdout, stderr io.Writer) int {
	r := rootSign{stdin: os.Stdin, stdout: stdout, stderr: stderr}
	flags := r.flags()
	help := len(args) > 0 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help")
	if help {
		fmt.Fprint(stdout, rootUsage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	}
	if len(args) == 0 || args[0] != "sign" {
		fmt.Fprint(stderr, rootUsage)
		return 2
	}
	err := flags.Parse(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return runRoot([]string{"help"}, stdout, stderr)
	case err == nil && r.key == "":
		err = errors.New("--root-key is missing")
	case err == nil && flags.NArg() != 1:
		err = errors.New("name one request, after the flags")
	}
	if err != nil {
		fmt.Fprintf(stderr, "threshold: error: %v\nthreshold: hint: run: threshold root -h\n", err)
		return 2
	}
	if err := r.sign(flags.Arg(0)); err != nil {
		daemon.Log{}.Report(stderr, "threshold", err)
		return 1
	}
	return 0
}

func (r *rootSign) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("threshold root sign", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&r.key, "root-key", "", "the root key `file`, which --root-key-out wrote")
	flags.StringVar(&r.identity, "identity", "", "the identity `file` of age that opens the root key")
	flags.StringVar(&r.passphraseFile, "passphrase-file", "",
		"a `file` with the passphrase that opens the root key; without it you are asked")
	flags.StringVar(&r.out, "out", "", "write the answer to this new `file` (default: standard output)")
	flags.BoolVar(&r.yes, "yes", false, "sign without asking")
	return flags
}

// sign reads the request, shows what it would change, and writes the answer.
func (r *rootSign) sign(request string) error {
	text, err := readFile(request)
	if err != nil {
		return err
	}
	parsed, err := authorities.ReadRequest(text)
	if err != nil {
		return err
	}
	r.show(parsed)
	if !r.yes {
		if err := r.confirm(); err != nil {
			return err
		}
	}
	opening, err := r.opening()
	if err != nil {
		return err
	}
	defer clear(opening.Passphrase)
	key, err := authorities.OpenRootKey(r.key, opening)
	if err != nil {
		return err
	}
	defer key.Wipe()
	answer, err := authorities.Sign(key, parsed, time.Now())
	if err != nil {
		return err
	}
	encoded, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		return err
	}
	return r.write(append(encoded, '\n'))
}

// show prints what verifiers will trust after the change.
func (r *rootSign) show(request authorities.Request) {
	fmt.Fprintf(r.stderr, "Cluster %s, %s\nAuthorities %d, requested %s:\n", visible(request.Cluster),
		request.Pin, request.Epoch, request.Created.Format(time.RFC3339))
	for _, k := range request.Body.Keys {
		id := k.ID
		if id == "" {
			id = "new, certified by this root"
		}
		fmt.Fprintf(r.stderr, "  %-13s %2d  %-9s %s\n",
			visible(string(k.Authority)), k.Generation, visible(string(k.State)), visible(id))
	}
	if request.DropOld {
		fmt.Fprintln(r.stderr,
			"The keys that are replaced are trusted no more: what they signed ends at once.")
	}
}

// visible returns text of a request as a terminal shows it: what a terminal would obey is escaped. Whoever
// made the request could hide a key from the operator otherwise.
func visible(s string) string {
	quoted := strconv.QuoteToASCII(s[:min(len(s), 64)])
	return quoted[1 : len(quoted)-1]
}

// confirm asks whether to sign. Without a terminal it is fault Invalid.
func (r *rootSign) confirm() error {
	if !term.IsTerminal(int(r.stdin.Fd())) {
		return signingUnconfirmed.New("threshold root sign")
	}
	fmt.Fprint(r.stderr, "Did you make this request just now? Sign it? [y/N] ")
	line, _ := bufio.NewReader(r.stdin).ReadString('\n') // an error means no
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return signingRefused.New("threshold root sign")
	}
	return nil
}

// opening returns what opens the root key: the identity, the passphrase in a file, or one that is asked for.
func (r *rootSign) opening() (authorities.RootKeyOpening, error) {
	var out authorities.RootKeyOpening
	var err error
	switch {
	case r.identity != "":
		out.Identities, err = readFile(r.identity)
	case r.passphraseFile != "":
		out.Passphrase, err = readFile(r.passphraseFile)
		out.Passphrase = bytes.TrimRight(out.Passphrase, "\r\n")
	default:
		var locked bool
		if locked, err = authorities.NeedsPassphrase(r.key); err != nil {
			return out, err
		}
		if !locked {
			return out, identityMissing.New("threshold root sign", fault.Args{"file": r.key})
		}
		out.Passphrase, err = askPassphrase(r.stderr, "Passphrase of the root key: ")
	}
	return out, err
}

// write writes the answer to the new file, or to standard output.
func (r *rootSign) write(answer []byte) error {
	if r.out == "" {
		_, err := r.stdout.Write(answer)
		return err
	}
	file, err := os.OpenFile(r.out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = file.Write(answer)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return answerUnwritten.Wrap(err, "threshold root sign", fault.Args{"file": r.out, "why": err.Error()})
	}
	fmt.Fprintf(r.stderr, "Next: tsh root apply %s\n", r.out)
	return nil
}
