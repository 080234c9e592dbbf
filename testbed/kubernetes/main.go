// Command cluster is one Kubernetes cluster inside the network namespace it is started in: etcd, kube-apiserver,
// kube-controller-manager and kube-proxy as processes, and a kubelet of our own whose pods are namespaces and
// processes. It is no part of the product; `testbed kubernetes` starts one in each namespace it made.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// The addresses inside a cluster: the same in every one, on purpose.
const (
	podNetwork     = "10.244.0.0/16"
	podGateway     = "10.244.0.1"
	serviceNetwork = "10.96.0.0/16"
	kubernetesIP   = "10.96.0.1"
	dnsIP          = "10.96.0.10"
	clusterDomain  = "cluster.local"
	// Of both families, IPv4 first.
	podPrefix6      = "fd00:244::"
	podNetwork6     = "fd00:244::/64"
	podGateway6     = "fd00:244::1"
	serviceNetwork6 = "fd00:96::/112"
)

// What the command line says.
type settings struct {
	folder  string
	bin     string
	name    string
	address string
	device  string
	zone    string
	images  images
}

// Which program stands for an image: the last part of its name, without tag.
type images map[string]string

func (i images) String() string { return "" }

func (i images) Set(text string) error {
	name, program, found := strings.Cut(text, "=")
	if !found {
		return fmt.Errorf("%q is not NAME=PROGRAM", text)
	}
	i[name] = program
	return nil
}

func (i images) program(image string) (string, bool) {
	last := image[strings.LastIndex(image, "/")+1:]
	name, _, _ := strings.Cut(last, ":")
	program, found := i[name]
	return program, found
}

func main() {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := job(os.Args[1], os.Args[2:]); err != nil {
			log.Fatalf("%s: %v", os.Args[1], err)
		}
		return
	}
	s := settings{images: images{}}
	flag.StringVar(&s.folder, "folder", "", "where everything is kept; must exist")
	flag.StringVar(&s.bin, "bin", "", "where the programs of Kubernetes are")
	flag.StringVar(&s.name, "name", "east", "what the node is called")
	flag.StringVar(&s.address, "address", "", "the node's address, on a device of this namespace")
	flag.StringVar(&s.device, "device", "wan0", "the device that leads out of the cluster")
	flag.StringVar(&s.zone, "zone", "zone-1", "the node's zone; its region is the part before the hyphen")
	flag.Var(s.images, "image", "NAME=PROGRAM: what runs for an image")
	flag.Parse()
	klog.SetOutput(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, s); err != nil && ctx.Err() == nil {
		log.Fatalf("cluster: %v", err)
	}
}

// job does something else than being a cluster.
func job(name string, words []string) error {
	switch name {
	case "pause":
		pause(words)
		return nil
	case "proxy":
		return proxyMain(words)
	case "fill", "export", "change", "sample":
		return trafficMain(name, words)
	default:
		return fmt.Errorf("no such job")
	}
}

func run(ctx context.Context, s settings) error {
	started := time.Now()
	if err := prepareNetwork(s); err != nil {
		return err
	}
	if err := makeKeys(s); err != nil {
		return err
	}
	programs := newPrograms(s.folder)
	defer programs.stop()
	if err := startControlPlane(ctx, s, programs); err != nil {
		return err
	}
	config, err := adminConfig(s)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	kubelet := newKubelet(s, client)
	defer kubelet.stop()
	if err := kubelet.register(ctx); err != nil {
		return fmt.Errorf("the node cannot be registered: %w", err)
	}
	if err := programs.start("kube-proxy", proxyCommand(s)); err != nil {
		return err
	}
	log.Printf("cluster %s stands after %.1f s", s.name, time.Since(started).Seconds())
	if err := os.WriteFile(filepath.Join(s.folder, "ready"), []byte(s.name+"\n"), 0o644); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- kubelet.run(ctx) }()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	case err := <-programs.ended:
		return err
	}
}

// The administrator's way to the API server, without client-side throttling.
func adminConfig(s settings) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.folder, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}
