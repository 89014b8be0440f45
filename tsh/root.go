package tsh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// authoritiesName is the name of the authorities of a cluster.
const authoritiesName = "cluster"

// maxAnswerBytes bounds the file of the root's answer. A usual one has 5 kB.
const maxAnswerBytes = 256 << 10

// rootCmd is "tsh root". The authorities are a resource: "tsh root request" and "tsh root apply" apply it,
// and "tsh get authorities" shows it. The root key itself is never here: "threshold root sign" uses it.
func (a *app) rootCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "root",
		Short: "Replace keys of the cluster, which its root key signs elsewhere",
		Long: "Replace keys of the cluster's authorities, for example one that was stolen. The root key,\n" +
			"which no server has, signs the change on the machine where you keep it:\n\n" +
			"  tsh root request --replace rules --drop-old --out request.json\n" +
			"  threshold root sign --root-key root.key.age --out answer.json request.json\n" +
			"  tsh root apply answer.json\n\n" +
			"Then restart auth, which signs with the new keys from then on.",
		GroupID: admin,
	}
	cmd.AddCommand(a.rootRequestCmd(), a.rootApplyCmd())
	return cmd
}

// authorityNames are the authorities that can be replaced.
var authorityNames = []string{"user-ssh", "host-ssh", "user-x509", "service-x509", "rules"}

func (a *app) rootRequestCmd() *cobra.Command {
	var spec struct {
		Replace []string `json:"replace"`
		DropOld bool     `json:"drop_old,omitempty"`
	}
	var out string
	cmd := &cobra.Command{
		Use:   "request",
		Short: "Make new keys, and a request for the root key to sign them",
		Example: "  tsh root request --replace rules --drop-old --out request.json\n" +
			"  tsh root request --replace service-x509 > request.json",
		Args: noArgs("name the authorities with --replace, not as %s"),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		encoded, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		status, err := a.applyAuthorities(cmd.Context(), encoded)
		if err != nil {
			return err
		}
		if len(status.Request) == 0 { // the cluster keeps its root key
			fmt.Fprintln(a.Stderr, "The cluster has signed and applied the change itself: "+restartAuth)
			return nil
		}
		if err := a.writeNewFile(out, append(status.Request, '\n')); err != nil {
			return err
		}
		fmt.Fprintln(a.Stderr,
			"Next, where you keep the root key: threshold root sign --root-key FILE REQUEST")
		return nil
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&spec.Replace, "replace", nil,
		"`AUTHORITY` that gets a new key: user-ssh, host-ssh, user-x509, service-x509 or rules; may be repeated")
	flags.BoolVar(&spec.DropOld, "drop-old", false,
		"do not trust the old keys any more: certificates that they signed end at once, and after service-x509 "+
			"all machines must join again")
	flags.StringVar(&out, "out", "", "write the request to this new `FILE` (default: standard output)")
	names := cobra.FixedCompletions(authorityNames, cobra.ShellCompDirectiveNoFileComp)
	_ = cmd.RegisterFlagCompletionFunc("replace", names) // the flag exists
	_ = cmd.MarkFlagRequired("replace")
	return cmd
}

// restartAuth is what remains to be done after a change.
const restartAuth = "restart auth now, it signs with the old keys until then."

func (a *app) rootApplyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "apply FILE",
		Short:   "Apply the answer of the root key; - reads standard input",
		Example: "  tsh root apply answer.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := a.readAnswer(args[0])
			if err != nil {
				return err
			}
			spec, err := json.Marshal(map[string]string{"answer": string(answer)})
			if err != nil {
				return err
			}
			status, err := a.applyAuthorities(cmd.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "authorities %s applied\n", status.Revision)
			fmt.Fprintln(a.Stderr, "Next: "+restartAuth)
			return nil
		},
	}
}

// authoritiesStatus is the part of the status that tsh reads.
type authoritiesStatus struct {
	Revision string          `json:"revision"`
	Request  json.RawMessage `json:"request"`
}

// applyAuthorities applies a spec of the authorities and returns the status after it.
func (a *app) applyAuthorities(
	ctx context.Context, spec json.RawMessage,
) (status authoritiesStatus, err error) {
	prof, err := a.currentLogin()
	if err != nil {
		return status, err
	}
	client := a.auth(prof)
	defer client.Close()
	resp, err := authrpc.Call(ctx, client, authrpc.ApplyResource, authrpc.ApplyResourceRequest{
		Resource: authrpc.Resource{
			Kind:     access.Authorities.Singular(),
			Version:  "v1",
			Metadata: authrpc.Metadata{Name: authoritiesName},
			Spec:     spec,
		},
	})
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(resp.Resource.Status, &status)
}

// readAnswer reads the file, or standard input for "-".
func (a *app) readAnswer(name string) ([]byte, error) {
	in := a.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, applyFileUnreadable.Wrap(err, "", fault.Args{"file": name, "why": err.Error()})
		}
		defer file.Close()
		in = file
	}
	b, err := io.ReadAll(io.LimitReader(in, maxAnswerBytes))
	return b, applyFileUnreadable.Wrap(err, "", fault.Args{"file": name, "why": fmt.Sprint(err)})
}

// writeNewFile writes b to a file that does not exist yet, and to standard output without a name.
func (a *app) writeNewFile(name string, b []byte) error {
	if name == "" {
		_, err := a.Stdout.Write(b)
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = file.Write(b)
		err = errors.Join(err, file.Close())
	}
	return requestFileUnwritten.Wrap(err, "", fault.Args{"file": name, "why": fmt.Sprint(err)})
}
