"""Amazon SageMaker, played by a server on loopback; boto3 is the real one."""
