package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// maxApplyBytes bounds the file that apply reads.
const maxApplyBytes = config.MaxBytes

// getCmd is "tsh get". It shows all resources of a kind, or one by its name; text of one is YAML that "tsh
// apply" reads.
func (a *app) getCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get KIND [NAME]",
		Short:   "Show roles, users, nodes, locks, events or other resources",
		GroupID: admin,
		Example: `  tsh get roles
  tsh get role ops --format=yaml > ops.yaml     # edit it, then: tsh apply -f ops.yaml`,
		Args:              argCount(1, 2, "a kind, and for one resource its name: "+join(access.Resources)),
		ValidArgsFunction: a.completeResource,
	}
	format := formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, name, err := parseResource(args)
		if err != nil {
			return err
		}
		list, err := a.fetchResources(cmd.Context(), kind, name)
		if err != nil {
			return err
		}
		return a.showResources(*format, kind, name, list)
	}
	return cmd
}

// parseResource reads one or two arguments: "role ops", "roles/ops" or "roles". The name is empty in the last
// form, which means all resources of the kind. It returns an Invalid fault for an unknown kind, for two
// names, and for "KIND/" without a name.
func parseResource(args []string) (kind access.Resource, name string, err error) {
	word, name, err := splitName(args)
	if err != nil {
		return "", "", err
	}
	kind, err = resourceKind(word)
	return kind, name, err
}

// splitName splits one or two arguments, "KIND", "KIND NAME" or "KIND/NAME". It returns an Invalid fault for
// two names, and for "KIND/" without a name.
func splitName(args []string) (kind, name string, err error) {
	kind, name, hasSlash := strings.Cut(args[0], "/")
	switch {
	case len(args) == 2 && hasSlash:
		return "", "", resourceNamesTwo.New("", fault.Args{"first": args[0], "second": args[1]})
	case len(args) == 2:
		name = args[1]
	case hasSlash && name == "":
		return "", "", resourceNameMissing.New("", fault.Args{"argument": args[0]})
	}
	return kind, name, nil
}

// resourceKind accepts a kind in singular or plural, in any case.
func resourceKind(word string) (access.Resource, error) {
	for _, r := range access.Resources {
		if strings.EqualFold(word, string(r)) || strings.EqualFold(word, r.Singular()) {
			return r, nil
		}
	}
	return "", resourceKindUnknown.New("", fault.Args{"kind": word, "kinds": join(access.Resources)})
}

// fetchResources fetches all pages of the resources of a kind. If name is not empty, it fetches only the
// resource with this name. If there is none, the result is empty and the error nil.
func (a *app) fetchResources(
	ctx context.Context,
	kind access.Resource,
	name string,
) ([]authrpc.Resource, error) {
	prof, err := a.currentLogin()
	if err != nil {
		return nil, err
	}
	client := a.auth(prof)
	defer client.Close()
	all := []authrpc.Resource{}
	for after := ""; ; {
		req := authrpc.GetResourcesRequest{Kind: kind, Name: name, After: after}
		page, err := authrpc.Call(ctx, client, authrpc.GetResources, req)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Resources...)
		if page.Next == "" || page.Next == after { // a repeated Next would loop forever
			return all, nil
		}
		after = page.Next
	}
}

// showResources writes list, which fetchResources returned for kind and name, to standard output. With a
// name, list has at most one resource: it is written as a JSON object, and in the other two formats as YAML.
// An empty list is then a NotFound fault. Without a name, list is written as a JSON array, as one YAML
// document for each resource, or as a table.
func (a *app) showResources(
	format output.Format,
	kind access.Resource,
	name string,
	list []authrpc.Resource,
) error {
	if name != "" && len(list) == 0 {
		return resourceUnknown.New("", fault.Args{
			"kind":     kind.Singular(),
			"name":     name,
			"resource": string(kind),
		})
	}
	switch {
	case format == output.JSON && name != "":
		return a.write(format, list[0], nil /* no text */)
	case format == output.JSON:
		return a.write(format, list, nil /* no text */)
	case format == output.YAML || name != "":
		return a.writeDocuments(list)
	}
	return a.write(format, list, func(w io.Writer) error {
		if len(list) == 0 {
			_, err := fmt.Fprintf(a.Stderr, "There are no %s.\n", kind)
			return err
		}
		return writeListing(w, kind, list)
	})
}

// writeDocuments writes YAML that apply can read.
func (a *app) writeDocuments(list []authrpc.Resource) error {
	docs := make([]any, 0, len(list))
	for _, resource := range list {
		docs = append(docs, resource)
	}
	return stdoutFault(output.WriteYAML(a.Stdout, docs...))
}

// applyCmd is "tsh apply". If a document has a revision, as those of "tsh get" have, the auth service refuses
// it when the resource has been changed since that revision.
func (a *app) applyCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or change the resources in a file",
		Long: "Create or change the resources in a YAML file of one or more documents. " +
			"The whole file is checked before anything is sent.",
		GroupID: admin,
		Example: `  tsh apply -f role.yaml
  tsh get role ops --format=yaml | sed s/staging/prod/ | tsh apply -f -`,
		Args: noArgs("name the file with a flag: tsh apply -f %s"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return applyFileMissing.New("")
			}
			list, err := a.readResources(file)
			if err != nil {
				return err
			}
			return a.apply(cmd.Context(), list)
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", "`FILE` to read, or - for standard input")
	return cmd
}

// readResources reads a file, or standard input if file is "-", and decodes it: see decodeResources. It
// returns an Invalid fault for a file that cannot be read.
func (a *app) readResources(file string) ([]authrpc.Resource, error) {
	name, in := file, a.Stdin
	if file == "-" {
		name = "standard input"
	} else {
		opened, err := os.Open(file)
		if err != nil {
			return nil, applyFileNotFound.Wrap(err, "", fault.Args{"why": err.Error()})
		}
		defer opened.Close()
		in = opened
	}
	b, err := io.ReadAll(io.LimitReader(in, maxApplyBytes+1)) // one more: decoding refuses a larger file
	if err != nil {
		return nil, applyFileUnreadable.Wrap(err, "", fault.Args{"file": name, "why": err.Error()})
	}
	return decodeResources(name, b)
}

// decodeResources decodes b, a YAML file with one resource in each document. name is the file's name in
// messages. It checks what it can check without the auth service: the syntax of every document and the
// contents of roles and settings. It returns what is wrong with all documents in one error of type
// config.Faults; the list may only be used if the error is nil.
func decodeResources(name string, b []byte) ([]authrpc.Resource, error) {
	docs, err := config.DecodeAll(name, b)
	faults := []error{err}
	var list []authrpc.Resource
	for _, doc := range docs {
		resource, err := decodeResource(doc)
		faults = append(faults, err)
		list = append(list, resource)
	}
	return list, config.Join(faults...)
}

// decodeResource returns the resource in one YAML document. It checks the kind, and the spec of a role or
// of settings; the auth service checks the specs of other kinds.
func decodeResource(doc config.Document) (authrpc.Resource, error) {
	kind, err := resourceKind(doc.Kind)
	if err != nil {
		unknownKind := doc.Fault("kind %s is not known; known: %s", doc.Kind, join(access.Resources))
		return authrpc.Resource{}, config.Faults{unknownKind}
	}
	resource := authrpc.Resource{
		Kind:    kind.Singular(),
		Version: doc.Version,
		Metadata: authrpc.Metadata{
			Name:     doc.Metadata.Name,
			Labels:   doc.Metadata.Labels,
			Revision: doc.Metadata.Revision,
		},
	}
	var checked any // the spec is only decoded to check it
	switch kind {
	case access.Roles:
		checked = &access.Role{}
	case access.ClusterSettings:
		checked = &access.Settings{}
	}
	if checked != nil {
		if err := doc.Spec(checked); err != nil {
			return resource, err
		}
	}
	resource.Spec, err = doc.SpecJSON()
	return resource, err
}

// apply sends the resources to the auth service in order and prints each result. It returns the fault of the
// first one that is refused, after it has printed how many before it are applied; they stay applied.
func (a *app) apply(ctx context.Context, list []authrpc.Resource) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	for i, resource := range list {
		req := authrpc.ApplyResourceRequest{Resource: resource}
		resp, err := authrpc.Call(ctx, client, authrpc.ApplyResource, req)
		if err != nil {
			if i > 0 {
				fmt.Fprintf(
					a.Stderr,
					"Stopped at %s %s; the %d before it are applied.\n",
					resource.Kind,
					terminal.Clean(resource.Metadata.Name),
					i,
				)
			}
			return err
		}
		a.reportApplied(prof.FirstProxy().Address, resource, resp)
	}
	return nil
}

// reportApplied prints that the resource sent was created or changed, and the note in the answer, if there is
// one. If the resource is a new token, it also prints the token's secret, which only this answer contains.
func (a *app) reportApplied(proxy string, sent authrpc.Resource, resp authrpc.ApplyResourceResponse) {
	result := "changed"
	if resp.Created {
		result = "created"
	}
	name := resp.Resource.Metadata.Name // the auth service names some resources
	if name == "" {
		name = sent.Metadata.Name
	}
	fmt.Fprintf(a.Stdout, "%s %s %s\n", sent.Kind, terminal.Clean(name), result)
	if resp.Note != "" {
		fmt.Fprintln(a.Stderr, terminal.Clean(resp.Note))
	}
	if resp.Secret != "" {
		a.showToken(proxy, resp.Secret)
	}
}

// rmCmd is "tsh rm".
func (a *app) rmCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "rm KIND NAME",
		Short:             "Remove a role, connector, user, token, lock, node or proxy",
		GroupID:           admin,
		Example:           "  tsh rm node web-1\n  tsh rm token/3f2a…",
		Args:              argCount(1, 2, "a kind and a name"),
		ValidArgsFunction: a.completeResource,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runRemove(cmd.Context(), args)
		},
	}
}

// runRemove removes the resource that args name and prints that it is removed. It returns an Invalid fault
// without a name: several resources cannot be removed at once.
func (a *app) runRemove(ctx context.Context, args []string) error {
	kind, name, err := parseResource(args)
	if err != nil {
		return err
	}
	if name == "" {
		return rmNameMissing.New("", fault.Args{"kind": kind.Singular(), "resource": string(kind)})
	}
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	client := a.auth(prof)
	defer client.Close()
	req := authrpc.RemoveResourceRequest{Kind: kind, Name: name}
	if _, err := authrpc.Call(ctx, client, authrpc.RemoveResource, req); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "%s %s removed\n", kind.Singular(), terminal.Clean(name))
	return err
}
