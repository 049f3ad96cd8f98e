// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nacre-project/nacre/api/cdh"
	"github.com/nacre-project/nacre/api/keyprovider"
	"github.com/nacre-project/nacre/imagecrypt"
)

type providing struct {
	owner     *owner
	listen    string
	keyFiles  []string
	config    string
	unwrap    bool
	replace   bool
	noTrustee bool
	anywhere  bool
}

func newImageKeyProvider(o *owner) *cobra.Command {
	p := providing{owner: o}
	c := &cobra.Command{
		Use:   "key-provider",
		Short: "Wrap layers' keys for skopeo and other tools that encrypt images",
		Long: `Key-provider serves ocicrypt's key provider protocol (gRPC) until it is interrupted, so that other tools encrypt images with keys that the trustee
gives to guests. What they write behind the provider's name are parameters, as KEY=VALUE, with :: between them:

  keyid      the key's name in the trustee, kbs:///repository/type/tag; without it a new name under default/image-kek
  keypath    a file of 32 bytes, which this program reads: the key. It is put into the trustee if nothing is there
  algorithm  A256GCM, or A256CTR

Without keypath the key is one of --key-file, or was made by this call, or is made now and put into the trustee. No key is used that the trustee did not
take, and no key there is replaced, except with --replace-key.

Whoever reaches the address can have keys made, and with --unwrap encrypted images decrypted. So it is a loopback address, or a socket that only you can
open: --listen unix:/run/user/1000/nacre-keys.sock.`,
		Example: `  nacre image key-provider --config keyprovider.json
  OCICRYPT_KEYPROVIDER_CONFIG=keyprovider.json skopeo copy \
    --encryption-key provider:attestation-agent:keyid=kbs:///team/image-key/app docker://SRC docker://DST`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return p.run(c) },
	}
	f := c.Flags()
	f.StringVar(&p.listen, "listen", "127.0.0.1:50000", "address to listen at: a loopback address with a port, or unix:PATH")
	f.StringArrayVar(&p.keyFiles, "key-file", nil, "a key that is in a file, as kbs:///repository/type/tag=FILE (may be given several times)")
	f.StringVar(&p.config, "config", "", "write the file that OCICRYPT_KEYPROVIDER_CONFIG is to name")
	f.BoolVar(&p.unwrap, "unwrap", false, "unwrap too, with the keys of --key-file and those made by this call: whoever reaches the address can decrypt")
	f.BoolVar(&p.replace, "replace-key", false, "put new keys over those that the trustee has; images encrypted with these open no more")
	f.BoolVar(&p.noTrustee, "no-trustee", false, "do not speak to the trustee: keys are in files only")
	f.BoolVar(&p.anywhere, "unsafe-listen-anywhere", false, "listen at an address that others reach, without protection")
	return c
}

func (p *providing) run(c *cobra.Command) (err error) {
	keys := &imageKeys{replace: p.replace, held: map[string]heldKey{}}
	for _, pair := range p.keyFiles {
		uri, path, ok := strings.Cut(pair, "=")
		if !ok {
			return &exitError{2, fmt.Errorf("--key-file %q: want kbs:///repository/type/tag=FILE", pair)}
		}
		if _, err := imageKeyPath(uri); err != nil {
			return err
		}
		key, err := readImageKey(path)
		if err != nil {
			return err
		}
		keys.held[uri] = heldKey{Bytes: key}
	}
	if !p.noTrustee {
		if keys.admin, err = p.owner.admin(); err != nil {
			return fmt.Errorf("%w; or keep keys in files, with --no-trustee", err)
		}
		defer keys.admin.Close()
	}
	l, err := listenForTools(c.Context(), p.listen, p.anywhere)
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if l.Addr().Network() == "unix" {
		address = "unix:" + address
	}
	config := fmt.Sprintf(`{"key-providers":{%q:{"grpc":%q}}}`, imagecrypt.Provider, address)
	out := c.OutOrStdout()
	fmt.Fprintf(out, "wrapping keys at %s until interrupted\n", address)
	if p.config != "" {
		if err := os.WriteFile(p.config, []byte(config+"\n"), 0o600); err != nil {
			return errors.Join(err, l.Close())
		}
		fmt.Fprintf(out, "  OCICRYPT_KEYPROVIDER_CONFIG=%s\n", p.config)
	} else {
		fmt.Fprintf(out, "  OCICRYPT_KEYPROVIDER_CONFIG must name a file that says %s\n", config)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(imagecrypt.MaxRequest+1024), grpc.MaxConcurrentStreams(16))
	keyprovider.Register(server, &keyWrapper{keys: keys, unwrap: p.unwrap, log: c.ErrOrStderr()})
	defer context.AfterFunc(c.Context(), server.GracefulStop)()
	return server.Serve(l)
}

// listenForTools listens where only this machine reaches it, or this user.
func listenForTools(ctx context.Context, text string, anywhere bool) (net.Listener, error) {
	var listen net.ListenConfig
	path, isPath := strings.CutPrefix(text, "unix:")
	if !isPath {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, &exitError{2, fmt.Errorf("--listen %q: want a loopback address with a port, as 127.0.0.1:50000, or unix:PATH", text)}
		}
		if !address.Addr().IsLoopback() && !anywhere {
			return nil, fmt.Errorf("%s is not a loopback address: whoever reaches it could have keys made; to listen there all the same say --unsafe-listen-anywhere", text)
		}
		return listen.Listen(ctx, "tcp", text)
	}
	l, err := listen.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// keyWrapper is the service. Its errors go to the tool that asked, and what it did to the terminal.
type keyWrapper struct {
	keys   *imageKeys
	unwrap bool
	mu     sync.Mutex // of log
	log    io.Writer
}

func (w *keyWrapper) WrapKey(ctx context.Context, in *cdh.KeyProviderKeyWrapProtocolInput) (*cdh.KeyProviderKeyWrapProtocolOutput, error) {
	return w.serve(in, func(r *imagecrypt.Request) ([]byte, error) {
		if !r.Wrap {
			return nil, errors.New("a request to unwrap, sent to WrapKey")
		}
		params, err := wrapParameters(r.Parameters)
		if err != nil {
			return nil, err
		}
		key, err := w.keys.obtain(ctx, params.kid, params.file)
		if err != nil {
			return nil, err
		}
		packet, err := imagecrypt.Wrap(params.kid, key, params.algorithm, r.Options)
		if err != nil {
			return nil, err
		}
		w.say("wrapped a layer's key with %s", params.kid)
		return imagecrypt.WrapAnswer(packet)
	})
}

func (w *keyWrapper) UnWrapKey(ctx context.Context, in *cdh.KeyProviderKeyWrapProtocolInput) (*cdh.KeyProviderKeyWrapProtocolOutput, error) {
	return w.serve(in, func(r *imagecrypt.Request) ([]byte, error) {
		if r.Wrap {
			return nil, errors.New("a request to wrap, sent to UnWrapKey")
		}
		if !w.unwrap {
			return nil, errors.New("this key provider was started without --unwrap")
		}
		packet, err := imagecrypt.ParsePacket(r.Packet)
		if err != nil {
			return nil, err
		}
		options, err := imagecrypt.Unwrap(ctx, *packet, w.keys)
		if err != nil {
			return nil, err
		}
		defer options.Wipe()
		w.say("unwrapped a layer's key with %s", packet.KeyID)
		return imagecrypt.UnwrapAnswer(options)
	})
}

func (w *keyWrapper) serve(in *cdh.KeyProviderKeyWrapProtocolInput, do func(*imagecrypt.Request) ([]byte, error)) (*cdh.KeyProviderKeyWrapProtocolOutput, error) {
	r, err := imagecrypt.ParseRequest(in.GetKeyProviderKeyWrapProtocolInput())
	if err != nil {
		w.say("refused: %v", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	answer, err := do(r)
	if err != nil {
		w.say("refused: %v", err)
		return nil, status.Error(codes.FailedPrecondition, "nacre image key-provider: "+err.Error())
	}
	return &cdh.KeyProviderKeyWrapProtocolOutput{KeyProviderKeyWrapProtocolOutput: answer}, nil
}

func (w *keyWrapper) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(w.log, printable(fmt.Sprintf(format, args...)))
}

// wrapping are the parameters of a request to wrap.
type wrapping struct{ kid, file, algorithm string }

// wrapParameters reads what the user wrote behind the provider's name.
func wrapParameters(all map[string][]string) (wrapping, error) {
	list, ok := all[imagecrypt.Provider]
	if !ok && len(all) == 1 { // the user's configuration calls this provider something else
		for _, list = range all {
		}
	}
	if len(list) != 1 {
		return wrapping{}, fmt.Errorf("%d parameters for the provider %s, want one: several keys for one layer are not in the protocol", len(list), imagecrypt.Provider)
	}
	p := wrapping{algorithm: imagecrypt.A256GCM}
	into := map[string]*string{"keyid": &p.kid, "keypath": &p.file, "algorithm": &p.algorithm}
	seen := map[string]bool{}
	text := list[0]
	if text == "Enabled" { // what ocicrypt puts where the user wrote the provider's name alone
		text = ""
	}
	for pair := range strings.SplitSeq(text, "::") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if name == "sample" && value == "false" {
			continue
		}
		if name == "sample" {
			return wrapping{}, errors.New("sample=true: the sample key is public, and an image encrypted with it is not; name a key with keyid")
		}
		if into[name] == nil || !ok || value == "" || seen[name] {
			return wrapping{}, fmt.Errorf("parameter %q: want keyid=kbs:///repository/type/tag, keypath=FILE or algorithm=A256GCM, each once, with :: between them", pair)
		}
		seen[name] = true
		*into[name] = value
	}
	if p.kid == "" {
		p.kid = "kbs:///default/image-kek/" + uuid.NewString()
	}
	return p, nil
}
